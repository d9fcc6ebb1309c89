"""What one run of a handler came to."""

from __future__ import annotations

from typing import Any

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


Outcome = Done | Raised | Snoozed | Stopped

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
