"""procrastinate: LISTEN/NOTIFY, one job a fetch."""

from __future__ import annotations

import asyncio
import time

import uvloop
from procrastinate import App, PsycopgConnector

from bench.peers import talk

CONCURRENCY = {"latency": 10, "throughput": 10, "drain": 10}


def about() -> None:
    """Say what is measured here."""
    talk.about(
        "procrastinate",
        "psycopg",
        "uvloop",
        settings="async worker, uvloop, concurrency 10, pool of 12, delete_jobs=successful; batch_defer of 1,000",
        durability="PostgreSQL fsync, synchronous_commit on",
        wake="LISTEN/NOTIFY",
    )


def app_for(heard: talk.Order) -> App:
    """Build the app."""
    return App(connector=PsycopgConnector(conninfo=heard["uri"], min_size=2, max_size=12))


def prepare(heard: talk.Order) -> None:
    """Make the schema."""

    async def install() -> None:
        app = app_for(heard)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    uvloop.run(install())


def put_at_rate(heard: talk.Order) -> None:
    """Put open loop."""

    async def work() -> None:
        app = app_for(heard)

        @app.task(name="noop")
        async def noop(at: int) -> None: ...

        async def put(number: int, at: int) -> None:
            await noop.defer_async(at=at)

        async with app.open_async():
            await app.check_connection_async()
            talk.wait_go()
            began = time.monotonic_ns()
            await talk.put_open_loop(put, heard["rate"], heard["count"])
            talk.say(began=began, ended=time.monotonic_ns())

    uvloop.run(work())


def put_many(heard: talk.Order) -> None:
    """Put in thousands."""

    async def work() -> None:
        app = app_for(heard)

        @app.task(name="noop")
        async def noop(at: int) -> None: ...

        async with app.open_async():
            await app.check_connection_async()
            talk.wait_go()
            began = time.monotonic_ns()
            for numbers in talk.batches(heard["count"]):
                at = time.monotonic_ns()
                await noop.batch_defer_async(*({"at": at} for _ in numbers))
            talk.say(began=began, ended=time.monotonic_ns())

    uvloop.run(work())


def consume(heard: talk.Order) -> None:
    """Run handlers."""
    uvloop.run(_consume(heard))


async def _consume(heard: talk.Order) -> None:
    tally = talk.Tally(heard)
    probed = asyncio.Event()
    app = app_for(heard)

    @app.task(name="noop")
    async def noop(at: int) -> None:
        tally.note(at)

    @app.task(name="probe")
    async def probe() -> None:
        probed.set()

    async def none_left() -> bool:
        found = await app.connector.execute_query_one_async(
            "select exists (select from procrastinate_jobs where status in ('todo', 'doing')) as any"
        )
        return not found["any"]

    async with app.open_async():
        worker = asyncio.create_task(
            app.run_worker_async(
                concurrency=CONCURRENCY[heard["scenario"]],
                delete_jobs="successful",
                install_signal_handlers=False,
            )
        )
        if heard["waits"]:
            await talk.wait_probe(probe.defer_async, probed)
            tally.listening()
        await tally.wait_asyncio(none_left)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


if __name__ == "__main__":
    talk.play(about=about, prepare=prepare, put_at_rate=put_at_rate, put_many=put_many, consume=consume)
