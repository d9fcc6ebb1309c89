"""What the programs run that are ended at no particular call: workers that are killed in the middle of a task, and
workers that are asked to stop under load. See `dying`."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

import trio

from streamq import Retry, StreamQ, current_task
from streamq.core.document import RUNNING
from tests.faults.script import Pen

ATTEMPTS: Final = 100
LONGEST_S: Final = 0.05
"""How long a worker lives at most after its task has begun."""

LONG_LEASE_S: Final = 3_600.0
SLOTS: Final = 8
GRACE_S: Final = 0.3
BRIEF_S: Final = 0.04
LONG_S: Final = 600.0
LONG_SHARE: Final = 0.1


def ms(instant: datetime) -> int:
    """Say an instant of the server's as a number."""
    return round(instant.timestamp() * 1000)


# --- killed ---------------------------------------------------------------------------------------------------------


def declare(app: StreamQ, database: str, pen: Pen, then: Callable[[list[dict[str, Any]]], Awaitable[None]]) -> None:
    """Declare the handler: it writes down since when it is run, by the server's clock, and hands on what its worker
    holds just then."""
    tasks = app.client[database].tasks

    def look(id: Any) -> list[dict[str, Any]]:
        own = tasks.find_one({"_id": id})
        assert own is not None
        return [own, *tasks.find({"status": RUNNING, "worker": own["worker"], "_id": {"$ne": id}})]

    @app.task(retry=Retry(max_attempts=ATTEMPTS))
    async def mortal() -> None:
        held = await trio.to_thread.run_sync(look, current_task().id)
        pen.write("began", held[0]["_id"], held[0]["attempt"], ms(held[0]["started_at"]))
        await then(held)


async def die(app: StreamQ, database: str, pen: Pen) -> None:
    """Work; die by SIGKILL in the middle of the first task that was not lost just before, and write down until when the
    leases last that die too.

    What was lost just before is ended: were everybody to die of it again, the few that stand first would be begun again
    and again, and those behind them wait for as long as the test lasts (four minutes, with a thousand kills)."""

    async def then(held: list[dict[str, Any]]) -> None:
        if held[0]["attempt"] % 2 == 0:
            return
        for one in held:
            pen.write("held", one["_id"], one["attempt"], ms(one["lease_until"]))
        await trio.sleep(random.uniform(0, LONGEST_S))
        os.kill(os.getpid(), signal.SIGKILL)

    declare(app, database, pen, then)
    async with app:
        await app.work(concurrency=1)


async def survive(app: StreamQ, database: str, pen: Pen) -> None:
    """Work for ever."""

    async def then(held: list[dict[str, Any]]) -> None:
        return None

    declare(app, database, pen, then)
    async with app:
        await app.work(concurrency=SLOTS)


# --- asked to stop --------------------------------------------------------------------------------------------------


async def stop(app: StreamQ, database: str, pen: Pen) -> None:
    """Work until SIGTERM, then stop within a grace that most handlers do not need, and some would not end in."""
    asked = trio.Event()

    @app.task(lease_s=LONG_LEASE_S)
    async def busy() -> None:
        pen.write("began", current_task().id)
        await trio.sleep(LONG_S if random.random() < LONG_SHARE else BRIEF_S)

    async with app, trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            pen.write("worker", os.getpid(), app.services().worker)
            nursery.start_soon(lambda: app.work(concurrency=SLOTS, stop=asked, grace_s=GRACE_S))
            await anext(signals)
            asked.set()
