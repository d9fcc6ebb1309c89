"""pgqueuer: LISTEN/NOTIFY, batches of jobs, batched settling."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from bench.peers import talk

MANAGERS = {"latency": 1, "throughput": 1, "drain": 1}
BATCH = {"latency": 10, "throughput": 500, "drain": 500}


def about() -> None:
    """Say what is measured here."""
    talk.about(
        "pgqueuer",
        "asyncpg",
        "uvloop",
        settings="asyncpg, uvloop, recommended autovacuum; batch_size 10 for latency, 500 else; enqueue of 1,000",
        durability="its `durable` (logged tables); PostgreSQL fsync, synchronous_commit on",
        wake="LISTEN/NOTIFY",
    )


def prepare(heard: talk.Order) -> None:
    """Make the schema."""

    async def install() -> None:
        connection = await asyncpg.connect(heard["uri"])
        queries = Queries(AsyncpgDriver(connection))
        await queries.install()
        await queries.optimize_autovacuum()
        await connection.close()

    uvloop.run(install())


def put_at_rate(heard: talk.Order) -> None:
    """Put open loop."""

    async def work() -> None:
        connection = await asyncpg.connect(heard["uri"])
        queries = Queries(AsyncpgDriver(connection))
        await queries.queue_size()

        async def put(number: int, at: int) -> None:
            await queries.enqueue("noop", b"%d" % at)

        talk.wait_go()
        began = time.monotonic_ns()
        await talk.put_open_loop(put, heard["rate"], heard["count"])
        talk.say(began=began, ended=time.monotonic_ns())
        await connection.close()

    uvloop.run(work())


def put_many(heard: talk.Order) -> None:
    """Put in thousands."""

    async def work() -> None:
        connection = await asyncpg.connect(heard["uri"])
        queries = Queries(AsyncpgDriver(connection))
        await queries.queue_size()
        talk.wait_go()
        began = time.monotonic_ns()
        for numbers in talk.batches(heard["count"]):
            at = b"%d" % time.monotonic_ns()
            await queries.enqueue(["noop"] * len(numbers), [at] * len(numbers), [0] * len(numbers))
        talk.say(began=began, ended=time.monotonic_ns())
        await connection.close()

    uvloop.run(work())


def consume(heard: talk.Order) -> None:
    """Run handlers."""
    uvloop.run(_consume(heard))


async def _consume(heard: talk.Order) -> None:
    tally = talk.Tally(heard)
    probed = asyncio.Event()
    scenario = heard["scenario"]
    async with AsyncExitStack() as stack:
        looking = await asyncpg.connect(heard["uri"])
        stack.push_async_callback(looking.close)
        managers: list[PgQueuer] = []
        for _ in range(MANAGERS[scenario]):
            connection = await asyncpg.connect(heard["uri"])
            stack.push_async_callback(connection.close)
            manager = PgQueuer(AsyncpgDriver(connection))

            @manager.entrypoint("noop")
            async def noop(job: Job) -> None:
                assert job.payload is not None
                tally.note(int(job.payload))

            @manager.entrypoint("probe")
            async def probe(job: Job) -> None:
                probed.set()

            managers.append(manager)

        async def none_left() -> bool:
            return bool(await looking.fetchval("select not exists (select from pgqueuer)"))

        running = [asyncio.create_task(manager.run(batch_size=BATCH[scenario])) for manager in managers]
        if heard["waits"]:
            queries = Queries(AsyncpgDriver(looking))
            await talk.wait_probe(lambda: queries.enqueue("probe", b""), probed)
            tally.listening()
        await tally.wait_asyncio(none_left)
        for manager in managers:
            manager.shutdown.set()
        await asyncio.gather(*running, return_exceptions=True)


if __name__ == "__main__":
    talk.play(about=about, prepare=prepare, put_at_rate=put_at_rate, put_many=put_many, consume=consume)
