"""streaq: Redis streams, read by a blocking call."""

from __future__ import annotations

import time
from typing import Any

import anyio
import coredis
from streaq import Worker

from bench.peers import talk

CONCURRENCY = {"latency": 16, "throughput": 64, "drain": 64}

coredis.Config.optimized = True


def about() -> None:
    """Say what is measured here."""
    talk.about(
        "streaq",
        "coredis",
        "uvloop",
        settings="asyncio + uvloop, coredis optimized; concurrency 16 for latency, 64 else; no result kept; "
        "enqueue_many of 1,000",
        durability="Redis appendonly, fsync every second: up to 1 s of acknowledged puts may be lost",
        wake="XREADGROUP, blocking",
    )


def worker_for(heard: talk.Order, tally: talk.Tally | None = None) -> tuple[Worker[Any], Any]:
    """Build the worker and its one task."""
    worker: Worker[Any] = Worker(
        redis_url=heard["uri"],
        concurrency=CONCURRENCY[heard.get("scenario", "latency")],
        handle_signals=False,
    )

    @worker.task(name="noop", ttl=0, silent=True)
    async def noop(at: int) -> None:
        if tally is not None:
            tally.note(at)

    return worker, noop


def run(function: Any, heard: talk.Order) -> None:
    """Run as its benchmark does."""
    anyio.run(function, heard, backend="asyncio", backend_options={"use_uvloop": True})


def prepare(heard: talk.Order) -> None:
    """There is no schema; the worker's group reads a stream from its beginning."""


def put_at_rate(heard: talk.Order) -> None:
    """Put open loop."""
    run(_put_at_rate, heard)


async def _put_at_rate(heard: talk.Order) -> None:
    worker, noop = worker_for(heard)

    async def put(number: int, at: int) -> None:
        await noop.enqueue(at)

    async with worker:
        talk.wait_go()
        began = time.monotonic_ns()
        await talk.put_open_loop(put, heard["rate"], heard["count"])
        talk.say(began=began, ended=time.monotonic_ns())


def put_many(heard: talk.Order) -> None:
    """Put in thousands."""
    run(_put_many, heard)


async def _put_many(heard: talk.Order) -> None:
    worker, noop = worker_for(heard)
    async with worker:
        talk.wait_go()
        began = time.monotonic_ns()
        for numbers in talk.batches(heard["count"]):
            at = time.monotonic_ns()
            await worker.enqueue_many([noop.enqueue(at) for _ in numbers])
        talk.say(began=began, ended=time.monotonic_ns())


def consume(heard: talk.Order) -> None:
    """Run handlers."""
    run(_consume, heard)


async def _consume(heard: talk.Order) -> None:
    tally = talk.Tally(heard)
    worker, _ = worker_for(heard, tally)

    async def none_left() -> bool:
        return bool(await worker.redis.xlen(worker.stream_key + worker.priorities[0]) == 0)

    async with anyio.create_task_group() as group:
        await group.start(worker.run_async)
        if heard["waits"]:
            tally.listening()
        await tally.wait_asyncio(none_left)
        group.cancel_scope.cancel()


if __name__ == "__main__":
    talk.play(about=about, prepare=prepare, put_at_rate=put_at_rate, put_many=put_many, consume=consume)
