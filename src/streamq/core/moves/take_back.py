"""Take back: the lease of a running task has ended without its holder. The task goes back to its place, or, when
that was its last attempt, it fails: no expired lease ends in limbo. One that was to be cancelled is cancelled."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

from streamq.core import queries
from streamq.core.document import RUNNING, TaskDocument
from streamq.core.moves import total
from streamq.core.moves.fence import errors_with, left_behind
from streamq.core.moves.settle import apply_ending, apply_freed, ending, freed
from streamq.core.outcome import TOTAL_OVER, Raised

LEASE_EXPIRED = Raised(
    type="LeaseExpired",
    message="the lease ended without being extended: the worker died, froze or lost the network",
)


IS_LAST: Final[dict[str, Any]] = {"$or": [{"$gte": ["$attempt", "$max_attempts"]}, total.IS_OVER]}
"""Whether no attempt is left, or no time for one. Asked of the server, which can compare whatever the fields hold."""


TakeBack = Literal["take_back", "take_back_last", "cancel"]


def guard(move: TakeBack) -> dict[str, Any]:
    """Match the ended leases that leave by `move`. One whose task somebody asks to cancel between the look and the
    update matches no more, and is found by the next look."""
    found = queries.lease_ended()
    found["cancel_to"] = {"$exists": move == "cancel"}
    if move != "cancel":
        found["$expr"] = {"$and": [found["$expr"], IS_LAST if move == "take_back_last" else {"$not": [IS_LAST]}]}
    return found


def update(move: TakeBack) -> list[dict[str, Any]]:
    """Build the update. `settled_by` is left alone: nobody settled."""
    fields = ending(move, LEASE_EXPIRED) | freed()
    if move == "take_back_last":
        fields["errors"] = {"$cond": [total.IS_OVER, errors_with(TOTAL_OVER), errors_with(LEASE_EXPIRED)]}
    return [{"$set": fields}, {"$unset": left_behind(fields["status"])}]


def is_ended(document: TaskDocument, now: datetime) -> bool:
    """`queries.lease_ended`, for a document in memory."""
    return document["status"] == RUNNING and document["lease_until"] <= now


def apply(document: TaskDocument, now: datetime) -> None:
    """Take a document in memory back."""
    over = total.is_over(document, now)
    last = over or document["attempt"] >= document["max_attempts"]
    move = "cancel" if "cancel_to" in document else "take_back_last" if last else "take_back"
    apply_freed(document)
    apply_ending(document, move, TOTAL_OVER if over and move == "take_back_last" else LEASE_EXPIRED, now)
