"""Take back: the lease of a running task has ended without its holder. The task goes back to its place, or, when
that was its last attempt, it fails: no expired lease ends in limbo."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from streamq.core import queries
from streamq.core.document import RUNNING, TaskDocument
from streamq.core.moves.fence import left_behind
from streamq.core.moves.settle import apply_ending, ending
from streamq.core.outcome import Raised

LEASE_EXPIRED = Raised(
    type="LeaseExpired",
    message="the lease ended without being extended: the worker died, froze or lost the network",
)


IS_LAST: Final[dict[str, Any]] = {"$gte": ["$attempt", "$max_attempts"]}
"""Whether no attempt is left. Asked of the server, which can compare whatever the two fields hold."""


def guard(*, last: bool) -> dict[str, Any]:
    """Match ended leases with attempts left, or with none left."""
    found = queries.lease_ended()
    found["$expr"] = {"$and": [found["$expr"], IS_LAST if last else {"$not": [IS_LAST]}]}
    return found


def update(*, last: bool) -> list[dict[str, Any]]:
    """Build the update. `settled_by` is left alone: nobody settled."""
    move = "take_back_last" if last else "take_back"
    fields = ending(move, LEASE_EXPIRED)
    return [{"$set": fields}, {"$unset": left_behind(fields["status"])}]


def is_ended(document: TaskDocument, now: datetime) -> bool:
    """`queries.lease_ended`, for a document in memory."""
    return document["status"] == RUNNING and document["lease_until"] <= now


def apply(document: TaskDocument, now: datetime) -> None:
    """Take a document in memory back."""
    last = document["attempt"] >= document["max_attempts"]
    apply_ending(document, "take_back_last" if last else "take_back", LEASE_EXPIRED, now)
