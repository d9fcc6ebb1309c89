"""streamq, as a program uses it."""

from __future__ import annotations

import time
from typing import Any

import trio
from pymongo import MongoClient

from bench.peers import talk
from streamq import StreamQ

SLOTS = {"latency": 16, "throughput": 64, "drain": 64}


def about() -> None:
    """Say what is measured here."""
    talk.about(
        "streamq",
        "trio",
        "pymongo",
        settings="16 slots for latency, 64 else; put_many of 1,000; tasks are deleted at success",
        durability="puts and settles: majority, journaled; claims: w:1",
        wake="change stream",
    )


def app_for(heard: talk.Order, tally: talk.Tally | None = None, done: trio.Event | None = None) -> tuple[StreamQ, Any]:
    """Build the app and its one handler."""
    app = StreamQ(heard["uri"], database=heard["name"])

    @app.task(queue="bench", keep_s=0)
    async def noop(number: int, at: int) -> None:
        if tally is not None and tally.note(at) and done is not None:
            done.set()

    return app, noop


def prepare(heard: talk.Order) -> None:
    """Make the collection and its indexes."""

    async def open_once() -> None:
        async with app_for(heard)[0]:
            pass

    trio.run(open_once)


def put_at_rate(heard: talk.Order) -> None:
    """Put open loop."""
    trio.run(_put_at_rate, heard)


async def _put_at_rate(heard: talk.Order) -> None:
    app, noop = app_for(heard)

    async def put(number: int, at: int) -> None:
        await noop.put(number=number, at=at)

    async with app:
        await trio.to_thread.run_sync(talk.wait_go)
        began = time.monotonic_ns()
        async with trio.open_nursery() as nursery:
            for number in range(heard["count"]):
                due = began + round(number / heard["rate"] * 1e9)
                ahead = (due - time.monotonic_ns()) / 1e9
                if ahead > 0:
                    await trio.sleep(ahead)
                nursery.start_soon(put, number, due if ahead <= 0 and number else time.monotonic_ns())
        talk.say(began=began, ended=time.monotonic_ns())


def put_many(heard: talk.Order) -> None:
    """Put in thousands."""
    trio.run(_put_many, heard)


async def _put_many(heard: talk.Order) -> None:
    app, noop = app_for(heard)
    async with app:
        await trio.to_thread.run_sync(talk.wait_go)
        began = time.monotonic_ns()
        for numbers in talk.batches(heard["count"]):
            at = time.monotonic_ns()
            await app.put_many([noop.new(number=number, at=at) for number in numbers])
        talk.say(began=began, ended=time.monotonic_ns())


def consume(heard: talk.Order) -> None:
    """Run handlers."""
    trio.run(_consume, heard)


async def _consume(heard: talk.Order) -> None:
    tally = talk.Tally(heard)
    done = trio.Event()
    app, _ = app_for(heard, tally, done)
    with MongoClient[dict[str, Any]](heard["uri"]) as client:
        tasks = client[heard["name"]]["tasks"]

        def none_left() -> bool:
            return tasks.find_one({"status": {"$in": ["ready", "running"]}}) is None

        async with app, trio.open_nursery() as nursery:
            await nursery.start(app.work, {"bench": SLOTS[heard["scenario"]]})
            if heard["waits"]:
                tally.listening()
            with trio.move_on_after(max(0.0, tally.left_s)):
                await done.wait()
                while not await trio.to_thread.run_sync(none_left):  # noqa: ASYNC110 - the server is asked
                    await trio.sleep(talk.LOOK_S)
            tally.say()
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    talk.play(about=about, prepare=prepare, put_at_rate=put_at_rate, put_many=put_many, consume=consume)
