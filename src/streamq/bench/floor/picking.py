"""A consumer of the floor that is woken: one thread that reads a change stream and claims by id."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from pymongo import ReturnDocument

from streamq.bench.actor import Stage
from streamq.bench.floor.document import claim_update, fence, new_claim_id
from streamq.bench.place import QUEUE, Client, Place, collection
from streamq.bench.worked import Worked

STAGES: Final[list[Mapping[str, Any]]] = [
    {"$match": {"operationType": "insert", "fullDocument.status": "ready", "fullDocument.queue": QUEUE}},
    {"$project": {"documentKey": 1}},
]

AWAIT_MS: Final = 100
"""How late it sees that it is to stop."""


def work_one_by_one(stage: Stage, place: Place, count: int) -> Worked:
    """Wake by a change stream, claim by id, "run", settle: one thread, `count` tasks or until it is stopped."""
    worked = Worked()
    with Client(place.uri) as client:
        quick = collection(client, place, durable=False)
        durable = collection(client, place, durable=True)
        with durable.watch(STAGES, max_await_time_ms=AWAIT_MS) as stream:
            stage.ready()
            while worked.settled < count and not stage.stopped.is_set() and time.monotonic() < stage.until:
                stage.tell(worked.settled)
                event = stream.try_next()
                if event is None:
                    continue
                heard_at = time.monotonic_ns()
                claim_id = new_claim_id()
                taken = quick.find_one_and_update(
                    {"_id": event["documentKey"]["_id"], "queue": QUEUE, "status": "ready"},
                    claim_update(claim_id),
                    return_document=ReturnDocument.AFTER,
                )
                claimed_at = time.monotonic_ns()
                worked.note_claim(heard_at, claimed_at, taken is not None)
                if taken is not None:
                    worked.rows.append((taken["payload"]["number"], heard_at, claimed_at, time.monotonic_ns()))
                    durable.delete_one(fence([taken["_id"]], claim_id))
                    worked.note_settled(time.monotonic_ns(), 1)
    stage.tell(worked.settled)
    return worked
