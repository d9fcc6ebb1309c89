"""The floor: the same work in plain PyMongo, with streamq's documents, indexes, write concerns and fences."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from bson.codec_options import CodecOptions
from bson.timestamp import Timestamp
from pymongo import MongoClient, ReturnDocument
from pymongo.collection import Collection
from pymongo.write_concern import WriteConcern

from bench.peers import talk
from streamq.store.mongo import MongoStore

Tasks = Collection[dict[str, Any]]
Batch = tuple[list[ObjectId], bytes]

QUEUE = "bench"
CLAIM = 500
READY = {"status": "ready", "queue": QUEUE, "task": {"$in": ["noop"]}}
EVENTS: list[dict[str, Any]] = [
    {"$match": {"operationType": "insert", "fullDocument.status": "ready", "fullDocument.queue": QUEUE}},
    {"$project": {"documentKey": 1}},
]


def about() -> None:
    """Say what is measured here."""
    talk.about(
        "pymongo",
        settings=f"insert_many of 1,000; find, update_many, delete_many of {CLAIM}; latency: one thread",
        durability="puts and settles: majority, journaled; claims: w:1",
        wake="change stream (latency), polling (else)",
    )


def document(number: int, at: int) -> dict[str, Any]:
    """Build what streamq stores for a put of the bench's handler."""
    return {
        "_id": ObjectId(),
        "v": 1,
        "queue": QUEUE,
        "task": "noop",
        "status": "ready",
        "priority": 0,
        "seq": Timestamp(0, 0),
        "payload": {"number": number, "at": at},
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


@contextmanager
def opened(heard: talk.Order) -> Iterator[tuple[Tasks, Tasks]]:
    """Connect; yield the collection as puts and settles use it, and as claims do."""
    prepare(heard)
    options: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
    with MongoClient[dict[str, Any]](heard["uri"]) as client:
        tasks = client[heard["name"]].get_collection("tasks", options)
        tasks.find_one()
        yield (
            tasks.with_options(write_concern=WriteConcern("majority", j=True)),
            tasks.with_options(write_concern=WriteConcern(1)),
        )


def prepare(heard: talk.Order) -> None:
    """Make streamq's indexes: the floor pays for the same ones."""
    store = MongoStore.connect(heard["uri"], heard["name"])
    store.prepare()
    store.close()


def put_at_rate(heard: talk.Order) -> None:
    """Put open loop, from one thread."""
    with opened(heard) as (durable, _):
        talk.wait_go()
        began = time.monotonic_ns()
        for number, at in talk.ticks(heard["rate"], heard["count"]):
            durable.insert_one(document(number, at))
        talk.say(began=began, ended=time.monotonic_ns())


def put_many(heard: talk.Order) -> None:
    """Put in thousands."""
    with opened(heard) as (durable, _):
        talk.wait_go()
        began = time.monotonic_ns()
        for numbers in talk.batches(heard["count"]):
            at = time.monotonic_ns()
            durable.insert_many([document(number, at) for number in numbers], ordered=False)
        talk.say(began=began, ended=time.monotonic_ns())


def consume(heard: talk.Order) -> None:
    """Take, "run" and settle."""
    tally = talk.Tally(heard)
    with opened(heard) as (durable, quick):
        if heard["scenario"] == "latency":
            _serve(tally, durable, quick)
        else:
            _drain(tally, durable, quick, waits=heard["waits"])
    tally.say()


def _serve(tally: talk.Tally, durable: Tasks, quick: Tasks) -> None:
    """Wake by a change stream, claim by id, settle: one thread."""
    with durable.watch(EVENTS) as stream:
        tally.listening()
        while not tally.is_over:
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
                tally.note(taken["payload"]["at"])
                durable.delete_one(fence([taken["_id"]], claim_id))


def _drain(tally: talk.Tally, durable: Tasks, quick: Tasks, *, waits: bool) -> None:
    """Claim a batch at a time and settle them in a second thread."""
    settling: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()

    def settle() -> None:
        while (batch := settling.get()) is not None:
            durable.delete_many(fence(*batch))

    settler = threading.Thread(target=settle)
    settler.start()
    if waits:
        tally.listening()
    while not tally.is_over:
        found = list(quick.find(READY).sort([("priority", -1), ("seq", 1)]).limit(CLAIM))
        if not found:
            time.sleep(0.001)
            continue
        ids, claim_id = [one["_id"] for one in found], os.urandom(16)
        guard = {"_id": {"$in": ids}, "queue": QUEUE, "status": "ready", "attempt": 0}
        quick.update_many(guard, claim_update(claim_id))
        for one in found:
            tally.note(one["payload"]["at"])
        settling.put((ids, claim_id))
    settling.put(None)
    settler.join()


if __name__ == "__main__":
    talk.play(about=about, prepare=prepare, put_at_rate=put_at_rate, put_many=put_many, consume=consume)
