"""Releasing delayed tasks as soon as they are due, on the real server.

    aggregate: what is due, and when the next is → takers are free: claimed as read, as if it had been released
                                                 → else update (w:1) → the process's own takers look
                                                       └→ flush: no-op (majority) → the streams tell all the others
    a flood:   ids of many → updates (w:1), a part each → update of one task that waits: it says for all of them that
               the queue is to be looked at

Nobody waits for the journal on the way from the due instant to the handler: a release that a failover undoes leaves
the task delayed and due, and a claim of it is undone with it. The streams do wait, for what a majority has; a one-node
set comes to that within 100 ms by itself (its journal's interval), and at once when somebody writes with majority.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pymongo.errors import WriteError

from streamq.core import queries
from streamq.core.moves import announce, nothing
from streamq.core.moves import claim as claim_move
from streamq.core.moves import release_due as move_due
from streamq.core.wakes import by_urgency, wake_of_due
from streamq.store.collections import Tasks
from streamq.store.contract import Due, Overdue, Refused, Released
from streamq.store.faults import is_refusal, reading, rereading
from streamq.store.moving import lasting, move, pause_s, wakes_somebody

MOST_OVERDUE: Final = 4_000
"""Ids read by one look at a flood: so many that the looks cost nothing beside the releases."""


@rereading
def due(tasks: Tasks, most: int, *, whole: bool) -> Due:
    """See `Store.due`. Trips: 1."""
    with reading("look for due tasks"), tasks.deadline():
        rows = list(tasks.quick.aggregate(queries.due_and_next(most, whole=whole), batchSize=most + 1))
    found = [row for row in rows if "_id" in row]
    next_s = 0.0 if len(found) == most else min((row["in_ms"] / 1000 for row in rows[len(found) :]), default=None)
    told = sorted((one for one in found if wakes_somebody(one)), key=by_urgency)
    others = [] if len(told) == len(found) else [one["_id"] for one in found if not wakes_somebody(one)]
    claimable: Any = [one if claim_move.is_task(one) else None for one in told] if whole else []
    return Due(tuple(wake_of_due(one) for one in told), next_s, tuple(others), tuple(claimable))


@rereading
def overdue(tasks: Tasks) -> Overdue:
    """See `Store.overdue`. Trips: 1."""
    with reading("look for due tasks"), tasks.deadline():
        rows = list(tasks.quick.aggregate(queries.overdue(MOST_OVERDUE)))
    ids = [id for row in rows for id in row["ids"]]
    named = [row for row in rows if isinstance(row.get("_id"), str)]
    queues, lasts = [row["_id"] for row in named], [row["ids"][-1] for row in named]
    return Overdue(tuple(ids), tuple(queues), len(ids) == MOST_OVERDUE, tuple(lasts))


def release_due(tasks: Tasks, ids: Sequence[Any], queues: Sequence[str] = ()) -> Released:
    """See `Store.release_due`. Trips: 1, and 1 for each of `queues`. Idempotent, as a tick is."""
    refused: list[Refused] = []
    with reading("release due tasks"), tasks.deadline():
        count = move(tasks.quick, queries.due(), move_due.update(quietly=bool(queues)), list(ids), refused)
        for queue in queues:  # after all of them: who hears it looks once
            _announce(tasks, queue)
    return Released(count, lasting(refused), pause_s(refused, moved=False) if refused else None)


def _announce(tasks: Tasks, queue: str) -> None:
    try:
        tasks.quick.update_one(announce.unannounced(queue), announce.update(queue))
    except WriteError as error:
        if not is_refusal(error):  # else the others find them when they look by themselves
            raise


def flush(tasks: Tasks) -> None:
    """See `Store.flush`. Trips: 1. A write that changes nothing waits for all that was written before it."""
    with reading("wait for a majority"), tasks.deadline():
        tasks.durable.update_many(nothing.NONE, nothing.update())
