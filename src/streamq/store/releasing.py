"""Releasing delayed tasks as soon as they are due, on the real server.

    aggregate: what is due, and when the next is → update (w:1) → the process's own takers claim
                                                       └→ flush: no-op (majority) → the streams tell all the others

Nobody waits for the journal on the way from the due instant to the handler: a release that a failover undoes leaves
the task delayed and due, and a claim of it is undone with it. The streams do wait, for what a majority has; a one-node
set comes to that within 100 ms by itself (its journal's interval), and at once when somebody writes with majority.
"""

from __future__ import annotations

from streamq.core import queries
from streamq.core.moves import nothing
from streamq.core.moves import release_due as move_due
from streamq.core.wakes import wake_of_due
from streamq.store.collections import Tasks
from streamq.store.contract import Refused, Released
from streamq.store.faults import reading
from streamq.store.moving import MOST_A_TICK, lasting, move, moved, pause_s


def release_due(tasks: Tasks) -> Released:
    """See `Store.release_due`. Trips: 1 when nothing is due, else 2. Idempotent, as a tick is."""
    refused: list[Refused] = []
    with reading("release due tasks"), tasks.deadline():
        stages = queries.due_and_next(MOST_A_TICK, tasks.quick.name)
        rows = list(tasks.quick.aggregate(stages, batchSize=MOST_A_TICK + 1))
        due = [row for row in rows if "in_ms" not in row]
        ahead = [row["in_ms"] / 1000 for row in rows if "in_ms" in row]
        if due:
            move(tasks.quick, queries.due(), move_due.update(), [row["_id"] for row in due], refused)
    if len(due) == MOST_A_TICK:
        ahead = [pause_s(refused, moved=len(refused) < len(due))]  # there may be more
    elif refused:
        ahead.append(pause_s(refused, moved=False))
    wakes = tuple(wake_of_due(one) for one in moved(due, refused))
    return Released(wakes, min(ahead, default=None), lasting(refused))


def flush(tasks: Tasks) -> None:
    """See `Store.flush`. Trips: 1. A write that changes nothing waits for all that was written before it."""
    with reading("wait for a majority"), tasks.deadline():
        tasks.durable.update_many(nothing.NONE, nothing.update())
