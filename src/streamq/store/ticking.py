"""The scheduler's look at the collection: release what is due, take back what has ended, say when to look again."""

from __future__ import annotations

from typing import Any, Final

from bson import ObjectId

from streamq.core import queries
from streamq.core.moves import release_due, take_back
from streamq.store.collections import Document, Tasks
from streamq.store.contract import Tick
from streamq.store.faults import reading

MOST_A_TICK: Final = 1_000
"""Tasks moved in one step: many enough to keep up with a flood, few enough to let other writes through."""


def tick(tasks: Tasks) -> Tick:
    """See `Store.tick`. Trips: 2 when nothing is due; 2 more for what is due, 2 or 3 more for ended leases.

    Both moves are idempotent: many schedulers may run, and a lost reply only means to look again.
    """
    with reading("look for due tasks"):
        next_due = _in_s(tasks, queries.next_due())
        next_end = _in_s(tasks, queries.next_lease_end())
        released: list[tuple[ObjectId, str]] = []
        failed = 0
        if next_due is not None and next_due <= 0:
            released += _release(tasks)
        if next_end is not None and next_end <= 0:
            back, failed = _take_back(tasks)
            released += back
    ahead = [instant for instant in (next_due, next_end) if instant is not None]
    return Tick(tuple(released), failed, max(0.0, min(ahead)) if ahead else None)


def _in_s(tasks: Tasks, stages: list[dict[str, Any]]) -> float | None:
    with tasks.deadline():
        for row in tasks.quick.aggregate(stages):
            return float(row["in_ms"]) / 1000
    return None


def _release(tasks: Tasks) -> list[tuple[ObjectId, str]]:
    with tasks.deadline():
        due = list(tasks.quick.find(queries.due(), {"queue": 1}).sort("due_at", 1).limit(MOST_A_TICK))
        mine = queries.due() | {"_id": {"$in": [document["_id"] for document in due]}}
        tasks.durable.update_many(mine, release_due.update())
    return _named(due)


def _take_back(tasks: Tasks) -> tuple[list[tuple[ObjectId, str]], int]:
    with tasks.deadline():
        ended = list(
            tasks.quick.find(queries.lease_ended(), {"queue": 1, "is_last": take_back.IS_LAST})
            .sort("lease_until", 1)
            .limit(MOST_A_TICK)
        )
        last = [document for document in ended if document["is_last"]]
        again = [document for document in ended if not document["is_last"]]
        if again:
            _apply(tasks, again, last=False)
        failed = _apply(tasks, last, last=True) if last else 0
    return _named(again), failed


def _apply(tasks: Tasks, documents: list[Document], *, last: bool) -> int:
    mine = take_back.guard(last=last) | {"_id": {"$in": [document["_id"] for document in documents]}}
    return tasks.durable.update_many(mine, take_back.update(last=last)).modified_count


def _named(documents: list[Document]) -> list[tuple[ObjectId, str]]:
    """Say which queues to wake. A queue that has no name has nobody to wake; its task stays there to be seen."""
    return [
        (document["_id"], document["queue"])
        for document in documents
        if isinstance(document.get("queue"), str) and not isinstance(document["_id"], dict)
    ]
