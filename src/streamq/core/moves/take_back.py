"""Take back: the lease of a running task has ended without its holder. The task goes back to its place, or, when
that was its last attempt, it fails: no expired lease ends in limbo. One that was to be cancelled is cancelled.

A task that ends its process takes with it whatever runs beside it. All of them come back at the same moment, to places
beside each other, and would be claimed together again and again until their attempts are used up: one bad task and as
many good ones as a worker has slots. So from the second time on they go apart: each is put off for a time of its own,
within as long as its claim had lasted. Who dies then with the bad one is who happens to run just then.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from bson import ObjectId

from streamq.core import queries
from streamq.core.claim import is_number
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


TakeBack = Literal["take_back", "take_back_later", "take_back_last", "cancel"]

MOST_APART_S: Final = 60.0
"""How long one is put off at most. Chosen freely: a lease and twice that is what its crash has taken already."""

PARTS: Final = 16
"""Into how many moments a crowd is spread: each takes the server a statement of its own."""

SPREADS: Final = (185, 71, 121, 55, 165, 91)
"""What the last byte of an id is multiplied by, modulo 256: by these 16 ids in a row fall on 14 parts or more, wherever
the row begins (tried out for all odd numbers). Another for each attempt, so that it is not the same that meet again."""


def put_off_s(document: Mapping[str, Any]) -> float:
    """Say how long a task whose lease has ended, with attempts left, is kept from its place; 0: not at all.

    At once goes back what was lost for the first time, unless its next attempt is the last. Which part of the time is
    its own is told by its id, whose end is a count: tasks that were put one after the other differ in it.
    """
    attempt: Any = document.get("attempt")
    most: Any = document.get("max_attempts")
    since, until, id = document.get("started_at"), document.get("lease_until"), document["_id"]
    if not (is_number(attempt) and is_number(most) and isinstance(id, ObjectId) and "total_until" not in document):
        return 0.0
    if not (isinstance(since, datetime) and isinstance(until, datetime)) or (attempt < 2 and attempt + 1 < most):
        return 0.0
    lasted_s = max(0.0, (until - since).total_seconds())
    part = id.binary[-1] * SPREADS[int(attempt) % len(SPREADS)] % 256 * PARTS // 256
    return min(lasted_s, MOST_APART_S) * part / PARTS


def guard(move: TakeBack) -> dict[str, Any]:
    """Match the ended leases that leave by `move`. One whose task somebody asks to cancel between the look and the
    update matches no more, and is found by the next look."""
    found = queries.lease_ended()
    found["cancel_to"] = {"$exists": move == "cancel"}
    if move != "cancel":
        found["$expr"] = {"$and": [found["$expr"], IS_LAST if move == "take_back_last" else {"$not": [IS_LAST]}]}
    return found


def update(move: TakeBack, delay_s: float = 0.0) -> list[dict[str, Any]]:
    """Build the update. `settled_by` is left alone: nobody settled."""
    fields = ending(move, LEASE_EXPIRED, delay_s) | freed()
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
    apart_s = 0.0 if last or "cancel_to" in document else put_off_s(document)
    back = "take_back_later" if apart_s else "take_back"
    move = "cancel" if "cancel_to" in document else "take_back_last" if last else back
    apply_freed(document)
    apply_ending(document, move, TOTAL_OVER if over and move == "take_back_last" else LEASE_EXPIRED, now, apart_s)
