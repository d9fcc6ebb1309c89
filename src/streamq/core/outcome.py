"""What one run of a handler came to."""

from __future__ import annotations

from typing import Any, Final

import msgspec


class Done(msgspec.Struct, frozen=True):
    """The handler returned; `result` is encoded."""

    result: Any = None


class Raised(msgspec.Struct, frozen=True):
    """The handler raised, timed out or could not be called.

    `final` means that it is not tried again: it cannot help (a payload that does not decode, for instance), or the rule
    of retrying says so. `after_s`: the next attempt waits exactly so long, whatever the rule says.
    """

    type: str
    message: str
    traceback: str = ""
    final: bool = False
    after_s: float | None = None


class Snoozed(msgspec.Struct, frozen=True):
    """The handler asked for later, without using up the attempt."""

    delay_s: float


class Stopped(msgspec.Struct, frozen=True):
    """The consumer was cancelled before the handler ended; `started` tells whether it had begun."""

    started: bool


class CalledOff(msgspec.Struct, frozen=True):
    """The task is not to be done (any more): somebody asked for it, or the holder found out. `why` is kept."""

    why: Raised | None = None


Outcome = Done | Raised | Snoozed | Stopped | CalledOff


def called_off(outcome: Outcome | None) -> Outcome:
    """Say what an outcome counts for when the task was to be cancelled: what is done is done, all else ends there."""
    if isinstance(outcome, Done | CalledOff):
        return outcome
    return CalledOff(outcome if isinstance(outcome, Raised) else None)


CANCELLED: Final = "Cancelled"
"""The type under which the reason of a cancellation is kept among a task's errors."""


def reason_of(reason: str) -> Raised | None:
    """Build what is kept of a reason; None when there is none."""
    return raised(CANCELLED, reason) if reason else None


TYPE_KEPT = 200
MESSAGE_KEPT = 4_000
TRACEBACK_KEPT = 8_000
"""Characters of an error that are kept, so that ten errors stay far below the document limit of 16 MB."""


def raised(
    type_name: str, message: str, traceback: str = "", *, final: bool = False, after_s: float | None = None
) -> Raised:
    """Build a `Raised` whose texts are bounded and can be stored.

    The end of a traceback tells more than its beginning, so the end is kept. A lone surrogate or a NUL in a
    message must not keep the failure itself from being stored: such characters are replaced.
    """
    return Raised(
        type=_storable(type_name)[:TYPE_KEPT],
        message=_storable(message)[:MESSAGE_KEPT],
        traceback=_storable(traceback)[-TRACEBACK_KEPT:],
        final=final,
        after_s=after_s,
    )


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{SYMBOL FOR NULL}")


TOTAL_OVER: Final = Raised(
    type="TaskTimeout",
    message="all attempts and the waits between them took longer than total_timeout_s",
    final=True,
)
"""Why a task fails whose total time has run out, whoever finds out."""
