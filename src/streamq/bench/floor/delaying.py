"""A consumer of the floor for delayed tasks: one thread sleeps until the earliest is due and claims all that are."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any, Final

from streamq.bench.actor import Stage
from streamq.bench.floor.document import claim_update, fence, new_claim_id
from streamq.bench.place import QUEUE, Client, Place, Tasks, collection
from streamq.bench.worked import Worked

MOST: Final = 500
LOOK_S: Final = 0.05
"""How late it sees that it is to stop."""


def work_delayed(stage: Stage, place: Place, count: int) -> Worked:
    """Run `count` delayed tasks. A row's handler instant is by the wall clock, as due times are."""
    worked = Worked()
    with Client(place.uri, tz_aware=True) as client:
        quick = collection(client, place, durable=False)
        durable = collection(client, place, durable=True)
        stage.ready()
        while worked.settled < count and not stage.stopped.is_set() and time.monotonic() < stage.until:
            stage.tell(worked.settled)
            first = quick.find_one({"status": "delayed"}, {"due_at": 1}, sort=[("due_at", 1)])
            ahead_s = LOOK_S if first is None else _ahead_s(first["due_at"])
            if ahead_s > 0:
                time.sleep(min(ahead_s, LOOK_S))
                continue
            _take_due(quick, durable, worked)
    stage.tell(worked.settled)
    return worked


def _ahead_s(due_at: datetime) -> float:
    return due_at.timestamp() - time.time()


def _take_due(quick: Tasks, durable: Tasks, worked: Worked) -> None:
    due: dict[str, Any] = {"status": "delayed", "$expr": {"$lte": ["$due_at", "$$NOW"]}, "due_at": {"$type": "date"}}
    began_at = time.monotonic_ns()
    found = list(quick.find(due, {"payload": 1}).sort("due_at", 1).limit(MOST))
    ids = [one["_id"] for one in found]
    claim_id = new_claim_id()
    matched = quick.update_many(
        {"_id": {"$in": ids}, "queue": QUEUE, "status": "delayed"}, claim_update(claim_id)
    ).modified_count
    worked.note_claim(began_at, time.monotonic_ns(), matched)
    worked.released.append((time.time_ns(), matched))
    worked.rows += [(one["payload"]["number"], 0, 0, time.time_ns()) for one in found]
    durable.delete_many(fence(ids, claim_id))
    worked.note_settled(time.monotonic_ns(), len(ids))
