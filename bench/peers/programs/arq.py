"""arq: Redis, polled every `poll_delay`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import uvloop
from arq import Worker, create_pool, func
from arq.connections import RedisSettings

from bench.peers import talk

MAX_JOBS = {"latency": 16, "throughput": 32, "drain": 32}
POLL_S = 0.001
WRITERS = 32
"""Puts under way at once: arq has no put of many."""


def about() -> None:
    """Say what is measured here."""
    talk.about(
        "arq",
        "redis",
        "uvloop",
        settings="uvloop; poll_delay of 1 ms (its default: 0.5 s); max_jobs 16 for latency, 32 else; no result kept; "
        "32 puts under way at once",
        durability="Redis appendonly, fsync every second: up to 1 s of acknowledged puts may be lost",
        wake="polling",
    )


def prepare(heard: talk.Order) -> None:
    """There is no schema."""


def put_at_rate(heard: talk.Order) -> None:
    """Put open loop."""

    async def work() -> None:
        pool = await create_pool(RedisSettings.from_dsn(heard["uri"]))

        async def put(number: int, at: int) -> None:
            await pool.enqueue_job("noop", at)

        talk.wait_go()
        began = time.monotonic_ns()
        await talk.put_open_loop(put, heard["rate"], heard["count"])
        talk.say(began=began, ended=time.monotonic_ns())
        await pool.aclose()

    uvloop.run(work())


def put_many(heard: talk.Order) -> None:
    """Put, some at once."""

    async def work() -> None:
        pool = await create_pool(RedisSettings.from_dsn(heard["uri"]))
        numbers = iter(range(heard["count"]))

        async def write() -> None:
            for _ in numbers:
                await pool.enqueue_job("noop", time.monotonic_ns())

        talk.wait_go()
        began = time.monotonic_ns()
        await asyncio.gather(*(write() for _ in range(WRITERS)))
        talk.say(began=began, ended=time.monotonic_ns())
        await pool.aclose()

    uvloop.run(work())


def consume(heard: talk.Order) -> None:
    """Run handlers."""
    uvloop.run(_consume(heard))


async def _consume(heard: talk.Order) -> None:
    tally = talk.Tally(heard)

    async def noop(ctx: dict[Any, Any], at: int) -> None:
        tally.note(at)

    async def started(ctx: dict[Any, Any]) -> None:
        if heard["waits"]:
            tally.listening()

    worker = Worker(
        functions=[func(noop, name="noop", keep_result=0)],
        redis_settings=RedisSettings.from_dsn(heard["uri"]),
        max_jobs=MAX_JOBS[heard["scenario"]],
        poll_delay=POLL_S,
        on_startup=started,
        handle_signals=False,
    )

    async def none_left() -> bool:
        return bool(await worker.pool.zcard(worker.queue_name) == 0)

    running = asyncio.create_task(worker.async_run())
    await tally.wait_asyncio(none_left)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await worker.close()


if __name__ == "__main__":
    talk.play(about=about, prepare=prepare, put_at_rate=put_at_rate, put_many=put_many, consume=consume)
