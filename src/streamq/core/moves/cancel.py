"""Cancel: somebody wants a task not to be done (any more).

A task that nobody holds ends at once. A running one is asked: `cancel_to` names its holder, whose stream hears of it,
and stays on the task as long as the claim does. Whatever the holder then does but succeed or fail for good, and also
its death, ends the task in `cancelled` (`if_asked`): no road leads back to `ready` past the wish of a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from streamq.core.document import BLOCKED, CANCELLED, DELAYED, READY, RUNNING, TaskDocument
from streamq.core.moves.fence import LOCKS, end, terminal_fields
from streamq.core.transitions import next_status

CancelReply = Literal["cancelled", "asked", "ended", "gone"]
"""What became of the wish to cancel a task. `cancelled`: it is in that status now. `asked`: it is running, and its
holder will hear. `ended`: it had ended otherwise before. `gone`: it is not stored (any more)."""

WAITING: Final = (DELAYED, BLOCKED, READY)
"""Statuses of a task that nobody holds and that has not ended."""

WAITS: Final[dict[str, Any]] = {"status": {"$in": list(WAITING)}}
RUNS: Final[dict[str, Any]] = {"status": RUNNING}

ASKED: Final[dict[str, Any]] = {"$ne": [{"$type": "$cancel_to"}, "missing"]}
"""Whether somebody has asked to cancel a running task, for a pipeline."""


def update() -> list[dict[str, Any]]:
    """Build the update that ends a task which nobody holds; its filter has `WAITS`."""
    fields = {"status": next_status(READY, "cancel"), **terminal_fields()}
    return [{"$set": fields}, {"$unset": ["ready_in", *LOCKS]}]


def ask() -> list[dict[str, Any]]:
    """Build the update that asks the holder of a running task; its filter has `RUNS`."""
    return [{"$set": {"cancel_to": {"$ifNull": ["$worker", ""]}}}]


def if_asked() -> list[dict[str, Any]]:
    """Build the stage which, after those of a move that puts a running task back, ends it instead if that was asked."""
    ended = {"status": CANCELLED, "ready_in": "$$REMOVE", **dict.fromkeys(LOCKS, "$$REMOVE")}
    ended |= terminal_fields()
    return [{"$set": {name: {"$cond": [ASKED, value, f"${name}"]} for name, value in ended.items()}}]


def reply_of(document: Mapping[str, Any] | None) -> CancelReply | None:
    """Read from a task as it stands after the statements what to answer; None: neither of them met it."""
    if document is None:
        return "gone"
    if document["status"] == CANCELLED:
        return "cancelled"
    if document["status"] in WAITING:
        return None
    if document["status"] == RUNNING:
        return "asked" if "cancel_to" in document else None
    return "ended"


def apply(document: TaskDocument, now: datetime) -> None:
    """Cancel a document in memory that nobody holds."""
    document["status"] = next_status(document["status"], "cancel")
    end(document, None, now)
    for name in ("ready_in", *LOCKS):
        document.pop(name, None)  # type: ignore[misc]


def apply_ask(document: TaskDocument) -> None:
    """Ask the holder of a document in memory."""
    document["cancel_to"] = document.get("worker", "")
