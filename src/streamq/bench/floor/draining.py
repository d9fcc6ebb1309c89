"""A consumer of the floor that takes what waits: find, guarded update, delete, in batches; a second thread settles."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from bson import ObjectId

from streamq.bench.actor import Stage
from streamq.bench.floor.document import CLAIM_ORDER, NEEDED, READY, claim_update, fence, guard, new_claim_id
from streamq.bench.floor.sizes import Sizes
from streamq.bench.place import Client, Place, Tasks, collection
from streamq.bench.worked import Worked

Batch = tuple[list[ObjectId], bytes]
LOOK_S = 0.001


def drain(stage: Stage, place: Place, count: int, sizes: Sizes) -> Worked:
    """Claim, "run" and settle until `count` are settled or it is stopped."""
    worked = Worked()
    settled: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
    with Client(place.uri) as client:
        quick = collection(client, place, durable=False)
        quick.find_one()
        settler = threading.Thread(target=_settle, args=(collection(client, place, durable=True), settled, worked))
        stage.ready()
        stage.wait_go()
        settler.start()
        try:
            while worked.claimed < count and not stage.stopped.is_set() and time.monotonic() < stage.until:
                tasks = claim(quick, worked, sizes)
                if tasks:
                    settled.put(tasks)
                else:
                    time.sleep(LOOK_S)
                stage.tell(worked.settled)
        finally:
            settled.put(None)
            settler.join()
    stage.tell(worked.settled)
    return worked


def claim(quick: Tasks, worked: Worked, sizes: Sizes) -> Batch | None:
    """Claim a batch from the head; "run" it; None when there was none, or others took it all."""
    began_at = time.monotonic_ns()
    ready = quick.find(READY, None if sizes.whole else NEEDED).sort(CLAIM_ORDER)
    found: list[dict[str, Any]] = list(ready.limit(sizes.claim).batch_size(sizes.claim))
    ids = [one["_id"] for one in found]
    claim_id = new_claim_id()
    if ids and quick.update_many(guard(ids), claim_update(claim_id)).modified_count < len(ids):
        ids = [one["_id"] for one in quick.find(fence(ids, claim_id), {"_id": 1})]
    worked.note_claim(began_at, time.monotonic_ns(), len(ids))
    return (ids, claim_id) if ids else None


def _settle(durable: Tasks, settled: queue.SimpleQueue[Batch | None], worked: Worked) -> None:
    while (batch := settled.get()) is not None:
        durable.delete_many(fence(*batch))
        worked.note_settled(time.monotonic_ns(), len(batch[0]))
