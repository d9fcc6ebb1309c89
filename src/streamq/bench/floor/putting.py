"""Producers of the floor."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import trio

from streamq.bench.actor import Stage
from streamq.bench.floor.document import document
from streamq.bench.place import Client, Place, Tasks, collection
from streamq.bench.worked import Put, PutRow


def put_at_rate(stage: Stage, place: Place, rate: float, count: int) -> Put:
    """Put `count` tasks, open loop, from one thread. What became due during an insert goes with the next: of all plain
    ways the quickest."""
    put = Put()
    with Client(place.uri) as client:
        tasks = collection(client, place, durable=True)
        tasks.find_one()
        stage.ready()
        begin = int(stage.wait_go())
        while put.count < count and time.monotonic() < stage.until:
            _sleep_until(begin + round(put.count / rate * 1e9))
            due = min(count, int((time.monotonic_ns() - begin) * rate / 1e9) + 1)
            _insert(tasks, put, range(put.count, max(due, put.count + 1)), begin, rate)
    return put


def _insert(tasks: Tasks, put: Put, numbers: range, begin: int, rate: float) -> None:
    documents = [document(number) for number in numbers]
    called = time.monotonic_ns()
    if len(documents) == 1:
        tasks.insert_one(documents[0])
    else:
        tasks.insert_many(documents, ordered=False)
    acked = time.monotonic_ns()
    rows: list[PutRow] = [(begin + round(number / rate * 1e9), called, acked) for number in numbers]
    put.rows += rows
    put.count += len(rows)


def _sleep_until(at: int) -> None:
    ahead = at - time.monotonic_ns()
    if ahead > 0:
        time.sleep(ahead / 1e9)


def put_all(stage: Stage, place: Place, count: int, batch: int) -> Put:
    """Put `count` tasks as fast as it goes, `batch` an insert."""
    put = Put()
    with Client(place.uri) as client:
        tasks = collection(client, place, durable=True)
        tasks.find_one()
        stage.ready()
        stage.wait_go()
        put.began_at = time.monotonic_ns()
        for numbers in batches(count, batch):
            if time.monotonic() > stage.until:
                break
            tasks.insert_many([document(number) for number in numbers], ordered=False)
            put.count += len(numbers)
        put.ended_at = time.monotonic_ns()
    return put


def put_one_by_one(stage: Stage, place: Place, tasks: int, seconds: float) -> Put:
    """Let so many trio tasks put one at a time, each by `insert_one` in a thread."""
    return trio.run(_put_one_by_one, stage, place, tasks, seconds)


async def _put_one_by_one(stage: Stage, place: Place, tasks: int, seconds: float) -> Put:
    put = Put()
    limiter = trio.CapacityLimiter(tasks)

    async def producer(into: Tasks, end_at: float) -> None:
        while time.monotonic() < end_at:
            await trio.to_thread.run_sync(into.insert_one, document(put.count), limiter=limiter)
            put.count += 1

    with Client(place.uri, maxPoolSize=tasks) as client:
        into = collection(client, place, durable=True)
        into.find_one()
        stage.ready()
        await stage.gone()
        put.began_at = time.monotonic_ns()
        end_at = min(stage.until, time.monotonic() + seconds)
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(producer, into, end_at)
        put.ended_at = time.monotonic_ns()
    return put


def stored(place: Place, until: float, count: int, more: Mapping[str, Any] | None = None) -> int:
    """Store `count` tasks to begin with, quickly rather than safely; return how many were stored by `until`."""
    done = 0
    with Client(place.uri) as client:
        tasks = collection(client, place, durable=False)
        for numbers in batches(count, 5_000):
            if time.monotonic() > until:
                break
            tasks.insert_many([document(number, **(more or {})) for number in numbers], ordered=False)
            done += len(numbers)
        # What was written last is what the majority has, too.
        collection(client, place, durable=True).update_one({"_id": "bench:stored"}, {"$inc": {"n": 1}}, upsert=True)
    return done


def stored_due(place: Place, until: float, due_ms: Sequence[int]) -> int:
    """Store tasks due at these instants, in ms of the wall clock."""
    done = 0
    with Client(place.uri) as client:
        tasks = collection(client, place, durable=True)
        for numbers in batches(len(due_ms), 1_000):
            if time.monotonic() > until:
                break
            dues = [datetime.fromtimestamp(due_ms[number] / 1e3, UTC) for number in numbers]
            delayed = [
                document(number, status="delayed", due_at=due) for number, due in zip(numbers, dues, strict=True)
            ]
            tasks.insert_many(delayed, ordered=False)
            done += len(delayed)
    return done


def batches(count: int, size: int) -> Iterator[range]:
    """Cut `count` numbers into ranges."""
    for start in range(0, count, size):
        yield range(start, min(count, start + size))
