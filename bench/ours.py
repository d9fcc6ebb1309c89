"""The same work by streamq."""

from __future__ import annotations

import time
from typing import Any

import trio

from bench.place import Place
from streamq import StreamQ


def put_at_rate(place: Place, rate: float, count: int) -> None:
    """Put `count` tasks, open loop: a put that is late does not hold up the next."""
    trio.run(_put_at_rate, place, rate, count)


async def _put_at_rate(place: Place, rate: float, count: int) -> None:
    app = StreamQ(place.uri, database=place.database)

    @app.task(queue="bench", keep_s=0)
    async def noop(number: int, at: int) -> None: ...

    async def put(number: int) -> None:
        await noop.put(number=number, at=time.monotonic_ns())

    async with app, trio.open_nursery() as nursery:
        began = trio.current_time()
        for number in range(count):
            await trio.sleep_until(began + number / rate)
            nursery.start_soon(put, number)


def consume_one_by_one(place: Place, count: int, ready: Any) -> list[int]:
    """Run a handler that notes its first line; return the pickup latencies in ns."""
    return trio.run(_consume_one_by_one, place, count, ready)


async def _consume_one_by_one(place: Place, count: int, ready: Any) -> list[int]:
    app = StreamQ(place.uri, database=place.database)
    pickups: list[int] = []
    enough = trio.Event()

    @app.task(queue="bench", keep_s=0)
    async def noop(number: int, at: int) -> None:
        pickups.append(time.monotonic_ns() - at)
        if len(pickups) == count:
            enough.set()

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work, {"bench": 16})
        ready.set()
        await enough.wait()
        nursery.cancel_scope.cancel()
    return pickups


def put_in_thousands(place: Place, count: int) -> None:
    """Put `count` tasks, 1,000 a call."""
    trio.run(_put_in_thousands, place, count)


async def _put_in_thousands(place: Place, count: int) -> None:
    app = StreamQ(place.uri, database=place.database)

    @app.task(queue="bench", keep_s=0)
    async def noop(number: int, at: int) -> None: ...

    async with app:
        for start in range(0, count, 1_000):
            at = time.monotonic_ns()
            await app.put_many([noop.new(number=number, at=at) for number in range(start, start + 1_000)])


def drain(place: Place, count: int) -> None:
    """Run no-op handlers until `count` tasks are settled."""
    trio.run(_drain, place, count)


async def _drain(place: Place, count: int) -> None:
    app = StreamQ(place.uri, database=place.database)
    done = 0
    enough = trio.Event()

    @app.task(queue="bench", keep_s=0)
    async def noop(number: int, at: int) -> None:
        nonlocal done
        done += 1
        if done == count:
            enough.set()

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work, {"bench": 64})
        await enough.wait()
        nursery.cancel_scope.cancel()  # leaving waits until every settlement is known
