"""beanie-batteries-queue: a loop that polls every `sleep_time`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import uvloop
from beanie import init_beanie
from beanie_batteries_queue import State, Task
from pymongo import AsyncMongoClient

from bench.peers import talk

POLL_S = 0.001


class Noop(Task):
    """A task that does nothing."""

    number: int
    at: int

    async def run(self) -> None:
        """Note the first line."""
        assert tally is not None
        tally.note(self.at)


tally: talk.Tally | None = None


def about() -> None:
    """Say what is measured here."""
    talk.about(
        "beanie-batteries-queue",
        "beanie",
        "pymongo",
        settings="sleep_time of 1 ms (its default: 1 s); uvloop; insert_many of 1,000",
        durability="all writes: majority, journaled (by the URI)",
        wake="polling",
    )


async def connected(heard: talk.Order) -> AsyncMongoClient[dict[str, Any]]:
    """Connect and bind the model."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(heard["uri"] + "&w=majority&journal=true")
    await init_beanie(database=client[heard["name"]], document_models=[Noop])
    return client


def prepare(heard: talk.Order) -> None:
    """Make the indexes."""

    async def open_once() -> None:
        client = await connected(heard)
        await client.close()

    uvloop.run(open_once())


def put_at_rate(heard: talk.Order) -> None:
    """Put open loop."""

    async def put(number: int, at: int) -> None:
        await Noop(number=number, at=at).push()

    async def work() -> None:
        client = await connected(heard)
        await Noop.is_empty()
        talk.wait_go()
        began = time.monotonic_ns()
        await talk.put_open_loop(put, heard["rate"], heard["count"])
        talk.say(began=began, ended=time.monotonic_ns())
        await client.close()

    uvloop.run(work())


def put_many(heard: talk.Order) -> None:
    """Put in thousands."""

    async def work() -> None:
        client = await connected(heard)
        await Noop.is_empty()
        talk.wait_go()
        began = time.monotonic_ns()
        for numbers in talk.batches(heard["count"]):
            at = time.monotonic_ns()
            await Noop.insert_many([Noop(number=number, at=at) for number in numbers])
        talk.say(began=began, ended=time.monotonic_ns())
        await client.close()

    uvloop.run(work())


def consume(heard: talk.Order) -> None:
    """Run handlers."""
    global tally
    tally = talk.Tally(heard)

    async def none_left() -> bool:
        return await Noop.find_one({"state": {"$in": [State.CREATED, State.RUNNING]}}) is None

    async def work() -> None:
        assert tally is not None
        client = await connected(heard)
        await Noop.is_empty()
        queue = asyncio.create_task(Noop.queue(sleep_time=POLL_S).start())
        if heard["waits"]:
            tally.listening()
        await tally.wait_asyncio(none_left)
        queue.cancel()
        await asyncio.gather(queue, return_exceptions=True)
        await client.close()

    uvloop.run(work())


if __name__ == "__main__":
    talk.play(about=about, prepare=prepare, put_at_rate=put_at_rate, put_many=put_many, consume=consume)
