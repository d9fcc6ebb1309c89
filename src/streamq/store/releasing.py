"""Releasing delayed tasks as soon as they are due, on the real server.

    aggregate: what is due, and when the next is → a taker is free: claimed by id, as if it had been released
                                                 → else update (w:1) → the process's own takers look
                                                       └→ flush: no-op (majority) → the streams tell all the others

Nobody waits for the journal on the way from the due instant to the handler: a release that a failover undoes leaves
the task delayed and due, and a claim of it is undone with it. The streams do wait, for what a majority has; a one-node
set comes to that within 100 ms by itself (its journal's interval), and at once when somebody writes with majority.
"""

from __future__ import annotations

from collections.abc import Sequence

from bson import ObjectId

from streamq.core import queries
from streamq.core.moves import nothing
from streamq.core.moves import release_due as move_due
from streamq.core.wakes import by_urgency, wake_of_due
from streamq.store.collections import Tasks
from streamq.store.contract import Due, Refused, Released
from streamq.store.faults import reading, rereading
from streamq.store.moving import MOST_A_TICK, lasting, move, pause_s, wakes_somebody


@rereading
def due(tasks: Tasks) -> Due:
    """See `Store.due`. Trips: 1."""
    with reading("look for due tasks"), tasks.deadline():
        stages = queries.due_and_next(MOST_A_TICK, tasks.quick.name)
        rows = list(tasks.quick.aggregate(stages, batchSize=MOST_A_TICK + 1))
    found = [row for row in rows if "in_ms" not in row]
    ahead = [row["in_ms"] / 1000 for row in rows if "in_ms" in row]
    if len(found) == MOST_A_TICK:
        ahead = [0.0]
    told = sorted((one for one in found if wakes_somebody(one)), key=by_urgency)
    others = [] if len(told) == len(found) else [one["_id"] for one in found if not wakes_somebody(one)]
    return Due(tuple(wake_of_due(one) for one in told), min(ahead, default=None), tuple(others))


def release_due(tasks: Tasks, ids: Sequence[ObjectId]) -> Released:
    """See `Store.release_due`. Trips: 1. Idempotent, as a tick is."""
    refused: list[Refused] = []
    with reading("release due tasks"), tasks.deadline():
        count = move(tasks.quick, queries.due(), move_due.update(), list(ids), refused)
    return Released(count, lasting(refused), pause_s(refused, moved=False) if refused else None)


def flush(tasks: Tasks) -> None:
    """See `Store.flush`. Trips: 1. A write that changes nothing waits for all that was written before it."""
    with reading("wait for a majority"), tasks.deadline():
        tasks.durable.update_many(nothing.NONE, nothing.update())
