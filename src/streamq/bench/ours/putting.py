"""Producers of streamq."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import trio

from streamq import StreamQ
from streamq.bench.actor import Stage
from streamq.bench.floor.putting import batches
from streamq.bench.ours.ticker import Ticker
from streamq.bench.place import HANDLER, QUEUE, Place
from streamq.bench.worked import Put
from streamq.handler import Handler

QUICK = 1_000
TOGETHER_NS = 500_000
"""At so many puts a second those due within half a millisecond are begun together, the first of them so much late: a
wake-up for each would cost the cores that all share more than the puts themselves."""


def declared(app: StreamQ, queue: str = QUEUE, name: str = HANDLER) -> Handler[[int], None, object]:
    """Declare the bench's handler for a program that only puts."""

    @app.task(queue=queue, name=name, keep_s=0)
    async def noop(number: int) -> None: ...

    return noop


def put_at_rate(stage: Stage, place: Place, rate: float, count: int, queue: str = QUEUE, first: int = 0) -> Put:
    """Put `count` tasks, numbered from `first`, open loop: a put that is late does not hold up the next."""
    return trio.run(_put_at_rate, stage, place, rate, count, queue, first)


async def _put_at_rate(stage: Stage, place: Place, rate: float, count: int, queue: str, first: int) -> Put:
    app = StreamQ(place.uri, database=place.database, wake=place.wake)
    noop = declared(app, queue, HANDLER if queue == QUEUE else queue)
    rows = [(0, 0, 0)] * count
    put = Put()

    async def put_one(number: int, intended: int) -> None:
        called = time.monotonic_ns()
        rows[number] = (intended, called, 0)
        await noop.put(first + number)
        rows[number] = (intended, called, time.monotonic_ns())
        put.count += 1

    async with app:
        stage.ready()
        begin = int(await stage.gone())
        with Ticker() as ticker, trio.move_on_after(max(0.0, stage.until - time.monotonic())):
            async with trio.open_nursery() as nursery:
                for number in range(count):
                    intended = begin + round(number / rate * 1e9)
                    if intended > time.monotonic_ns():
                        await ticker.wait_until(intended + (TOGETHER_NS if rate >= QUICK else 0))
                    elif number % 16 == 0:
                        await trio.lowlevel.checkpoint()
                    nursery.start_soon(put_one, number, intended)
                    if stage.stopped.is_set():
                        break
    put.rows = rows
    return put


def put_all(stage: Stage, place: Place, count: int, batch: int) -> Put:
    """Put `count` tasks as fast as it goes, `batch` a call."""
    return trio.run(_put_all, stage, place, count, batch)


async def _put_all(stage: Stage, place: Place, count: int, batch: int) -> Put:
    app = StreamQ(place.uri, database=place.database)
    noop = declared(app)
    put = Put()
    async with app:
        stage.ready()
        await stage.gone()
        put.began_at = time.monotonic_ns()
        for numbers in batches(count, batch):
            if time.monotonic() > stage.until or stage.stopped.is_set():
                break
            await app.put_many(noop.new(number) for number in numbers)
            put.count += len(numbers)
        put.ended_at = time.monotonic_ns()
    return put


def put_one_by_one(stage: Stage, place: Place, tasks: int, seconds: float) -> Put:
    """Let so many trio tasks put one at a time."""
    return trio.run(_put_one_by_one, stage, place, tasks, seconds)


async def _put_one_by_one(stage: Stage, place: Place, tasks: int, seconds: float) -> Put:
    app = StreamQ(place.uri, database=place.database)
    noop = declared(app)
    put = Put()

    async def producer(end_at: float) -> None:
        while time.monotonic() < end_at:
            await noop.put(put.count)
            put.count += 1

    async with app:
        stage.ready()
        await stage.gone()
        put.began_at = time.monotonic_ns()
        end_at = min(stage.until, time.monotonic() + seconds)
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(producer, end_at)
        put.ended_at = time.monotonic_ns()
    return put


def put_due(stage: Stage, place: Place, due_in_ms: Sequence[int]) -> Put:
    """Put tasks due so many ms after the instant that it is told, in ms of the wall clock."""
    return trio.run(_put_due, stage, place, due_in_ms)


async def _put_due(stage: Stage, place: Place, due_in_ms: Sequence[int]) -> Put:
    app = StreamQ(place.uri, database=place.database)
    noop = declared(app)
    put = Put()
    async with app:
        stage.ready()
        start_ms = int(await stage.gone())
        for numbers in batches(len(due_in_ms), 1_000):
            if time.monotonic() > stage.until:
                break
            dues = [datetime.fromtimestamp((start_ms + due_in_ms[number]) / 1e3, UTC) for number in numbers]
            await app.put_many(noop.options(at=due).new(number) for number, due in zip(numbers, dues, strict=True))
            put.count += len(numbers)
    return put
