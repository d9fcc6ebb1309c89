"""The scheduler's look at the collection: release what is due, take back what has ended, say when to look again."""

from __future__ import annotations

from typing import Final

from bson import ObjectId

from streamq.core import queries
from streamq.core.moves import expire, free, release_due, take_back
from streamq.store.collections import Document, Tasks
from streamq.store.contract import Refused, Tick
from streamq.store.faults import reading
from streamq.store.following import Followed, follow_up
from streamq.store.moving import move, named

MOST_A_TICK: Final = 1_000
"""Tasks moved in one step: many enough to keep up with a flood, few enough to let other writes through."""

STUCK_S: Final = 1.0
"""The pause when all that is due was refused: it stays due, and without a pause it would be tried without end."""


def tick(tasks: Tasks) -> Tick:
    """See `Store.tick`. Trips: 1 when nothing is due; 2 more for each kind of what is, 3 for ended leases, 4 or more
    for tasks that others wait for.

    All of it is idempotent: many schedulers may run, and a lost reply only means to look again.
    """
    with reading("look for due tasks"):
        ahead = _outlook(tasks)
        due = {kind for kind, in_s in ahead.items() if in_s <= 0}
        released: list[tuple[ObjectId, str]] = []
        refused: list[Refused] = []
        failed = 0
        removed = _remove(tasks) if "lifetime" in due else 0
        expired = _expire(tasks, refused) if "expiry" in due else 0
        if "due" in due:
            released += _release(tasks, refused)
        if "lease" in due:
            back, failed = _take_back(tasks, refused)
            released += back
        # What has just ended by time may have followers too.
        followed = follow_up(tasks, refused) if due else Followed()
        released += followed.released
    soonest = [*ahead.values(), *([0.0] if followed.found else [])]  # more may be marked, and followers be followed
    moved = released or failed or followed.done or expired or removed
    next_s = max(STUCK_S if refused and not moved else 0.0, min(soonest)) if soonest else None
    return Tick(
        tuple(released), failed, next_s, tuple(refused), followed=followed.done, expired=expired, removed=removed
    )


def _outlook(tasks: Tasks) -> dict[str, float]:
    with tasks.deadline():
        rows = tasks.quick.aggregate(queries.outlook(tasks.quick.name))
        return {row["of"]: float(row["in_ms"]) / 1000 for row in rows}


def _release(tasks: Tasks, refused: list[Refused]) -> list[tuple[ObjectId, str]]:
    with tasks.deadline():
        due = list(tasks.quick.find(queries.due(), {"queue": 1}).sort("due_at", 1).limit(MOST_A_TICK))
        move(tasks, queries.due(), release_due.update(), [document["_id"] for document in due], refused)
    return named(due, refused)


def _expire(tasks: Tasks, refused: list[Refused]) -> int:
    with tasks.deadline():
        over = tasks.quick.find(queries.expired(), {"_id": 1}).sort("expires_at", 1).limit(MOST_A_TICK)
        return move(tasks, queries.expired(), expire.update(), [document["_id"] for document in over], refused)


def _remove(tasks: Tasks) -> int:
    with tasks.deadline():
        outlived = tasks.quick.find(queries.outlived(), {"_id": 1}).sort("lifetime_until", 1).limit(MOST_A_TICK)
        ids = [document["_id"] for document in outlived]
        over = queries.outlived() | {"_id": {"$in": ids}}
        tasks.durable.update_many(over | free.HAS_SLOT, free.update())
        return tasks.durable.delete_many(over).deleted_count


def _take_back(tasks: Tasks, refused: list[Refused]) -> tuple[list[tuple[ObjectId, str]], int]:
    with tasks.deadline():
        ended = list(
            tasks.quick.find(queries.lease_ended(), {"queue": 1, "cancel_to": 1, "is_last": take_back.IS_LAST})
            .sort("lease_until", 1)
            .limit(MOST_A_TICK)
        )
        again = [one for one in ended if not one["is_last"] and "cancel_to" not in one]
        last = [one for one in ended if one["is_last"] and "cancel_to" not in one]
        _apply(tasks, "take_back", again, refused)
        failed = _apply(tasks, "take_back_last", last, refused)
        _apply(tasks, "cancel", [one for one in ended if "cancel_to" in one], refused)
    return named(again, refused), failed


def _apply(tasks: Tasks, how: take_back.TakeBack, documents: list[Document], refused: list[Refused]) -> int:
    ids = [document["_id"] for document in documents]
    return move(tasks, take_back.guard(how), take_back.update(how), ids, refused) if ids else 0
