"""The floor: the same work in plain PyMongo, as `streamq bench` has it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pymongo import ReturnDocument

from bench.peers import talk
from streamq.bench.floor.document import claim_update, document, fence, new_claim_id
from streamq.bench.floor.draining import LOOK_S, Batch, claim
from streamq.bench.floor.picking import STAGES
from streamq.bench.floor.sizes import BEST
from streamq.bench.place import QUEUE, Client, Place, Tasks, collection
from streamq.bench.worked import Worked


def about() -> None:
    """Say what is measured here."""
    talk.about(
        "pymongo",
        settings=f"insert_many of {BEST.insert:,}; claims and settles of {BEST.claim:,}; latency: one thread",
        durability="puts and settles: majority, journaled; claims: w:1",
        wake="change stream (latency), polling (else)",
    )


@contextmanager
def opened(heard: talk.Order) -> Iterator[tuple[Tasks, Tasks]]:
    """Connect; yield the collection as puts and settles use it, and as claims do."""
    place = place_of(heard)
    place.prepare()
    with Client(place.uri) as client:
        durable, quick = (collection(client, place, durable=one) for one in (True, False))
        durable.find_one()
        yield durable, quick


def place_of(heard: talk.Order) -> Place:
    """Name the place."""
    return Place(heard["uri"], heard["name"])


def prepare(heard: talk.Order) -> None:
    """Make streamq's indexes: the floor pays for the same ones."""
    place_of(heard).prepare()


def put_at_rate(heard: talk.Order) -> None:
    """Put open loop, from one thread."""
    with opened(heard) as (durable, _):
        talk.wait_go()
        began = time.monotonic_ns()
        for number, at in talk.ticks(heard["rate"], heard["count"]):
            durable.insert_one(document(number, payload={"number": number, "at": at}))
        talk.say(began=began, ended=time.monotonic_ns())


def put_many(heard: talk.Order) -> None:
    """Put in batches."""
    with opened(heard) as (durable, _):
        talk.wait_go()
        began = time.monotonic_ns()
        for numbers in talk.batches(heard["count"], BEST.insert):
            durable.insert_many([document(number) for number in numbers], ordered=False)
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
    with durable.watch(STAGES) as stream:
        tally.listening()
        while not tally.is_over:
            event = stream.try_next()
            if event is None:
                continue
            claim_id = new_claim_id()
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
    worked = Worked()
    while not tally.is_over:
        batch = claim(quick, worked, BEST)
        if batch is None:
            time.sleep(LOOK_S)
            continue
        for _ in batch[0]:
            tally.note(0)
        settling.put(batch)
    settling.put(None)
    settler.join()


if __name__ == "__main__":
    talk.play(about=about, prepare=prepare, put_at_rate=put_at_rate, put_many=put_many, consume=consume)
