"""Workers of streamq that have nothing to do, that hold until killed, that get ready from nothing."""

from __future__ import annotations

import time

import trio
from pymongo import monitoring

from streamq import StreamQ
from streamq.bench.actor import Stage
from streamq.bench.commands import Commands
from streamq.bench.ours.stamped import stamped
from streamq.bench.place import HANDLER, QUEUE, Place

SETTLED_S = 1.0
"""A worker that has sent nothing for so long is through with its start."""


def idle(stage: Stage, place: Place, handlers: int) -> dict[str, int]:
    """Work for so many handlers, each with a queue of its own, and get nothing to do; return the commands sent between
    ready and stop."""
    return trio.run(_idle, stage, place, handlers)


async def _idle(stage: Stage, place: Place, handlers: int) -> dict[str, int]:
    commands = Commands()
    monitoring.register(commands)  # for all clients that are made from now on: the app's own
    app = StreamQ(place.uri, database=place.database)

    async def handler(number: int) -> None: ...

    for number in range(handlers):
        app.task(queue=f"{QUEUE}{number}", name=f"{HANDLER}{number}")(handler)
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        while commands.counts():  # the first looks at its queues are no idling
            commands.clear()
            await trio.sleep(SETTLED_S)
        stage.ready()
        await stage.gone()
        commands.clear()
        enough = trio.Event()
        with stage.stopping(enough.set), trio.move_on_after(max(0.0, stage.until - time.monotonic())):
            await enough.wait()
        counts = commands.counts()
        nursery.cancel_scope.cancel()
    return counts


def hold(stage: Stage, place: Place, count: int, lease_s: float) -> None:
    """Run `count` tasks that do not end, until killed."""
    trio.run(_hold, stage, place, count, lease_s)


async def _hold(stage: Stage, place: Place, count: int, lease_s: float) -> None:
    app = StreamQ(place.uri, database=place.database, lease_s=lease_s)
    held = 0

    @app.task(queue=QUEUE, name=HANDLER, keep_s=0)
    async def noop(number: int) -> None:
        nonlocal held
        held += 1
        if held == count:
            stage.ready()
        await trio.sleep_forever()

    with trio.move_on_after(max(0.0, stage.until - time.monotonic())):
        async with app:
            await app.work({QUEUE: count})


def first_claim(stage: Stage, place: Place) -> int:
    """Start a worker from nothing; return the ns until its first claim was answered."""
    return trio.run(_first_claim, stage, place)


async def _first_claim(stage: Stage, place: Place) -> int:
    stage.ready()
    await stage.gone()
    began_at = time.monotonic_ns()
    app, store = stamped(place)
    begun_at = 0
    begun = trio.Event()

    @app.task(queue=QUEUE, name=HANDLER, keep_s=0)
    async def noop(number: int) -> None:
        begun.set()

    with trio.move_on_after(max(0.0, stage.until - time.monotonic())):
        async with app, trio.open_nursery() as nursery:
            await nursery.start(app.work, {QUEUE: 1})
            await begun.wait()
            begun_at = store.worked.last_claim_at
            nursery.cancel_scope.cancel()
    store.close()
    return begun_at - began_at if begun_at else 0
