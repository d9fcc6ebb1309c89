"""The life of a task as one table.

Here: which move leads from which status to which. Nothing else: no field but the status, no time, no I/O.
A move that is not in the table raises `IllegalMove` and changes nothing. `docs/lifecycle.md` is drawn from it
(`docs/draw_lifecycle.py`).
"""

from __future__ import annotations

from typing import Final

from streamq.core.document import (
    BLOCKED,
    CANCELLED,
    DELAYED,
    EXPIRED,
    FAILED,
    READY,
    RUNNING,
    SUCCEEDED,
    TERMINAL,
    Status,
)
from streamq.errors import StreamQError

TABLE: Final[dict[Status, dict[str, Status]]] = {
    BLOCKED: {
        "unblock": READY,
        "unblock_later": DELAYED,
        "replace": BLOCKED,
        "replace_later": BLOCKED,
        "cancel": CANCELLED,
        "expire": EXPIRED,
        "fail": FAILED,
    },
    DELAYED: {
        "release_due": READY,
        "claim": RUNNING,
        "replace": READY,
        "replace_later": DELAYED,
        "cancel": CANCELLED,
        "expire": EXPIRED,
    },
    READY: {
        "claim": RUNNING,
        "delay": DELAYED,
        "replace": READY,
        "replace_later": DELAYED,
        "cancel": CANCELLED,
        "expire": EXPIRED,
    },
    RUNNING: {
        "extend": RUNNING,
        "succeed": SUCCEEDED,
        "retry": READY,
        "retry_later": DELAYED,
        "fail": FAILED,
        "release": READY,
        "snooze": DELAYED,
        "cancel": CANCELLED,
        "take_back": READY,
        "take_back_later": DELAYED,
        "take_back_last": FAILED,
    },
    SUCCEEDED: {"requeue": READY, "requeue_later": DELAYED, "requeue_blocked": BLOCKED},
    FAILED: {"requeue": READY, "requeue_later": DELAYED, "requeue_blocked": BLOCKED},
    CANCELLED: {"requeue": READY, "requeue_later": DELAYED, "requeue_blocked": BLOCKED},
    EXPIRED: {"requeue": READY, "requeue_later": DELAYED, "requeue_blocked": BLOCKED},
}

BORN: Final[dict[str, Status]] = {"put": READY, "put_delayed": DELAYED, "put_blocked": BLOCKED}
"""The statuses a task may begin in."""

MEANINGS: Final[dict[str, str]] = {
    "put": "A put: claimable at once.",
    "put_delayed": "A put with `delay_s` or `at`.",
    "put_blocked": "A put that waits for other tasks.",
    "unblock": "What it waited for has come.",
    "unblock_later": "What it waited for has come, its own time has not.",
    "release_due": "Its time has come, by the server's clock.",
    "replace": "A later put with its unique key takes its place, claimable at once.",
    "replace_later": "The same, with `delay_s` or `at`.",
    "delay": "Put off while nobody holds it.",
    "claim": "A holder takes it, at its due time where it was delayed; the attempt is counted.",
    "extend": "Its holder keeps it for another lease.",
    "succeed": "The attempt succeeded; with `keep_s=0` the task is deleted instead.",
    "retry": "The attempt failed, another follows at once.",
    "retry_later": "The attempt failed, another follows after a backoff.",
    "fail": "The attempt failed and no other follows; or what the task waited for failed.",
    "release": "Its holder gives it back; the attempt is not counted.",
    "snooze": "Its holder gives it back for a while; the attempt is not counted.",
    "take_back": "The lease ended without its holder; attempts are left.",
    "take_back_later": "The same, not for the first time: what was lost together comes back apart.",
    "take_back_last": "The lease ended without its holder, on the last attempt.",
    "cancel": "Somebody cancelled it; of a running task, when its handler has ended.",
    "expire": "It was not started by the time it had to.",
    "requeue": "A person puts the ended task back.",
    "requeue_later": "A person puts the ended task back, for later.",
    "requeue_blocked": "A person puts the ended task of a group back, to wait for its turn.",
}
"""What each move means, for people."""


class IllegalMove(StreamQError):
    """A move was asked for that the table does not have: a bug in streamq or a document changed by hand."""

    def __init__(self, status: str, move: str) -> None:
        super().__init__(f"a task in status {status!r} cannot {move}")
        self.status = status
        self.move = move


def next_status(status: Status, move: str) -> Status:
    """Say which status `move` leads to from `status`; raise `IllegalMove` where the table has no such step."""
    try:
        return TABLE[status][move]
    except KeyError:
        raise IllegalMove(status, move) from None


def is_terminal(status: Status) -> bool:
    """Say whether a task in `status` has ended (until a person requeues it)."""
    return status in TERMINAL
