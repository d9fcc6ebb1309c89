"""Holders of the floor: one that claims and is killed, one that sleeps until the earliest lease ends and takes over."""

from __future__ import annotations

import time
from typing import Any, Final

from streamq.bench.actor import Stage
from streamq.bench.floor.document import READY, claim_update, fence, new_claim_id
from streamq.bench.place import QUEUE, Client, Place, collection
from streamq.bench.worked import Worked

LOOK_S: Final = 0.02


def hold(stage: Stage, place: Place, count: int, lease_s: float) -> None:
    """Claim `count` tasks and hold them until killed."""
    with Client(place.uri) as client:
        quick = collection(client, place, durable=False)
        claim_id = new_claim_id()
        held = 0
        while held < count and time.monotonic() < stage.until:
            ids = [one["_id"] for one in quick.find(READY, {"_id": 1}).limit(count)]
            held += quick.update_many(
                {"_id": {"$in": ids}}, claim_update(claim_id, round(lease_s * 1000))
            ).modified_count
        stage.ready()
        while time.monotonic() < stage.until and not stage.stopped.wait(lease_s / 3):
            extend = [{"$set": {"lease_until": {"$add": ["$$NOW", round(lease_s * 1000)]}}}]
            collection(client, place, durable=True).update_many({"status": "running", "claim_id": claim_id}, extend)


def take_over(stage: Stage, place: Place, count: int) -> Worked:
    """Take over `count` tasks whose leases end. A row's handler instant is by the wall clock."""
    worked = Worked()
    ended: dict[str, Any] = {
        "status": "running",
        "lease_until": {"$type": "date"},
        "$expr": {"$lte": ["$lease_until", "$$NOW"]},
    }
    with Client(place.uri, tz_aware=True) as client:
        quick = collection(client, place, durable=False)
        durable = collection(client, place, durable=True)
        stage.ready()
        while worked.settled < count and not stage.stopped.is_set() and time.monotonic() < stage.until:
            first = quick.find_one({"status": "running"}, {"lease_until": 1}, sort=[("lease_until", 1)])
            ahead_s = LOOK_S if first is None else first["lease_until"].timestamp() - time.time()
            if ahead_s > 0:
                time.sleep(min(ahead_s, LOOK_S))
                continue
            found = list(quick.find(ended, {"payload": 1}).limit(count))
            ids = [one["_id"] for one in found]
            claim_id = new_claim_id()
            quick.update_many(ended | {"_id": {"$in": ids}, "queue": QUEUE}, claim_update(claim_id))
            mine = {one["_id"] for one in quick.find(fence(ids, claim_id), {"_id": 1})}
            worked.rows += [(one["payload"]["number"], 0, 0, time.time_ns()) for one in found if one["_id"] in mine]
            durable.delete_many(fence(mine, claim_id))
            worked.note_settled(time.monotonic_ns(), len(mine))
    return worked
