"""The floor: the same work in plain PyMongo. The same documents, indexes, write concerns and fences; no trio, no
streamq, nothing that a real program would need besides."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from bson.timestamp import Timestamp
from pymongo import MongoClient, ReturnDocument

from bench.place import Place, collection

QUEUE = "bench"
BATCH = 500


def document(number: int, at: int | None = None) -> dict[str, Any]:
    """Build what streamq stores for a put of the bench's handler; `at` is the instant it counts from."""
    return {
        "_id": ObjectId(),
        "v": 1,
        "queue": QUEUE,
        "task": "noop",
        "status": "ready",
        "priority": 0,
        "seq": Timestamp(0, 0),
        "payload": {"number": number, "at": time.monotonic_ns() if at is None else at},
        "attempt": 0,
        "max_attempts": 5,
        "created_at": datetime.now(UTC),
        "keep_s": 0.0,
    }


def claim_update(claim_id: bytes) -> list[dict[str, Any]]:
    """Build the claim that streamq writes."""
    fields = {
        "status": "running",
        "claim_id": claim_id,
        "lease_until": {"$add": ["$$NOW", 30_000]},
        "attempt": {"$add": ["$attempt", 1]},
        "worker": "floor",
        "started_at": "$$NOW",
    }
    return [{"$set": fields}, {"$unset": "ready_in"}]


def fence(ids: list[ObjectId], claim_id: bytes) -> dict[str, Any]:
    """Build the fence of a settlement."""
    return {"_id": {"$in": ids}, "queue": QUEUE, "status": "running", "claim_id": claim_id}


# --- latency ---------------------------------------------------------------------------------------------------------


def put_at_rate(place: Place, rate: float, count: int) -> None:
    """Put `count` tasks, open loop."""
    with MongoClient[dict[str, Any]](place.uri) as client:
        tasks = collection(client, place, durable=True)
        tasks.find_one()
        for number, at in ticks(rate, count):
            tasks.insert_one(document(number, at))


def ticks(rate: float, count: int) -> Iterator[tuple[int, int]]:
    """Yield numbers with the instants they count from, in ns.

    A put that is held up by the one before it counts from when it was due: else a stall of the server would show in
    one sample here, and in all that it delayed for a contender whose puts overlap (coordinated omission).
    """
    began = time.monotonic_ns()
    for number in range(count):
        due = began + round(number / rate * 1e9)
        ahead = (due - time.monotonic_ns()) / 1e9
        if ahead > 0:
            time.sleep(ahead)
        yield number, due if ahead <= 0 and number else time.monotonic_ns()


def consume_one_by_one(place: Place, count: int, ready: Any) -> list[int]:
    """Wake by a change stream, claim by id, "run", settle: one thread. Return the pickup latencies in ns."""
    stages: list[dict[str, Any]] = [
        {"$match": {"operationType": "insert", "fullDocument.status": "ready", "fullDocument.queue": QUEUE}},
        {"$project": {"documentKey": 1}},
    ]
    pickups: list[int] = []
    with MongoClient[dict[str, Any]](place.uri) as client:
        quick = collection(client, place, durable=False)
        durable = collection(client, place, durable=True)
        with durable.watch(stages) as stream:
            ready.set()
            while len(pickups) < count:
                event = stream.try_next()
                if event is None:
                    continue
                claim_id = os.urandom(16)
                taken = quick.find_one_and_update(
                    {"_id": event["documentKey"]["_id"], "queue": QUEUE, "status": "ready"},
                    claim_update(claim_id),
                    return_document=ReturnDocument.AFTER,
                )
                if taken is not None:
                    pickups.append(time.monotonic_ns() - taken["payload"]["at"])
                    durable.delete_one(fence([taken["_id"]], claim_id))
    return pickups


# --- throughput ------------------------------------------------------------------------------------------------------


def put_in_thousands(place: Place, count: int) -> None:
    """Put `count` tasks, 1,000 an insert."""
    with MongoClient[dict[str, Any]](place.uri) as client:
        tasks = collection(client, place, durable=True)
        for start in range(0, count, 1_000):
            tasks.insert_many([document(number) for number in range(start, start + 1_000)], ordered=False)


def drain(place: Place, count: int) -> None:
    """Claim 500 at a time and settle them in a second thread, until `count` are settled."""
    settled: queue.SimpleQueue[tuple[list[ObjectId], bytes] | None] = queue.SimpleQueue()
    with MongoClient[dict[str, Any]](place.uri) as client:
        settler = threading.Thread(target=_settle, args=(client, place, settled))
        settler.start()
        quick = collection(client, place, durable=False)
        done = 0
        while done < count:
            ids = _claim(quick, settled)
            done += ids
            if not ids:
                time.sleep(0.001)
        settled.put(None)
        settler.join()


def _claim(quick: Any, settled: queue.SimpleQueue[tuple[list[ObjectId], bytes] | None]) -> int:
    wanted = {"status": "ready", "queue": QUEUE, "task": {"$in": ["noop"]}}
    found = list(quick.find(wanted).sort([("priority", -1), ("seq", 1)]).limit(BATCH))
    if not found:
        return 0
    ids = [one["_id"] for one in found]
    claim_id = os.urandom(16)
    quick.update_many({"_id": {"$in": ids}, "queue": QUEUE, "status": "ready", "attempt": 0}, claim_update(claim_id))
    settled.put((ids, claim_id))
    return len(ids)


def _settle(
    client: MongoClient[dict[str, Any]], place: Place, settled: queue.SimpleQueue[tuple[list[ObjectId], bytes] | None]
) -> None:
    durable = collection(client, place, durable=True)
    while (batch := settled.get()) is not None:
        durable.delete_many(fence(*batch))
