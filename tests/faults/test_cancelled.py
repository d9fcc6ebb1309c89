"""A worker is cancelled at any call to the server: what it held is given back before it is through, nothing is lost.

At every step of the scheduler, on the store in memory: tests/runtime/test_cancellation.py. Here threads are on their
way, and answers come to somebody who has been cancelled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import trio
from pymongo import MongoClient

from tests.databases import Databases, Mongo
from tests.faults.commands import AtCommand, Place, When, all_of
from tests.faults.fault import DEFAULTS
from tests.faults.remains import finish, flaws_of_work, put_all
from tests.faults.script import Pen, app_on, declared
from tests.faults.sweep import Sweep

AT_A_TIME: Final = 6
DRAWN: Final = 10

LEASE_S: Final = 60.0
"""No lease ends meanwhile: who goes on finds what was given back."""

STOP_S: Final = 20.0
"""How long a cancelled worker may take to leave, and another to end all that it left. Giving back takes one call; the
rest is for a machine that is busy with other tests."""


async def work(uri: str, database: str, pen: Pen, nth: int, when: When) -> int:
    """Work until all has ended, or until cancelled at that command; return how many were sent."""
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        canceller = AtCommand(nth, when, lambda: token.run_sync_soon(scope.cancel))
        options: dict[str, Any] = DEFAULTS | {"event_listeners": [canceller]}
        with MongoClient[dict[str, Any]](uri, tz_aware=True, **options) as client:
            app = app_on(client, database, pen, LEASE_S)
            done = declared(app, database, pen)
            canceller.count = 0
            async with app, trio.open_nursery() as nursery:
                await nursery.start(lambda task_status: app.work(concurrency=3, task_status=task_status))
                await done.wait()
                nursery.cancel_scope.cancel()
    return canceller.count


async def test_worker_cancelled_at_any_call_gives_all_back_at_once(
    uri: str, databases: tuple[Mongo, Databases], sweep: Sweep, tmp_path: Path
) -> None:
    mongo, lent = databases
    bad: list[str] = []

    async def case(number: int, at: Place) -> None:
        path = tmp_path / f"{number}.log"
        with lent.lend() as database:
            tasks = await put_all(mongo, database)
            began_at = trio.current_time()
            await work(uri, database, Pen(path), at.nth, at.when)
            took_s = trio.current_time() - began_at
            held = [one["task"] for one in mongo[database].tasks.find({"status": "running"})]
            finish_s = await finish(mongo, database, Pen(path))
            flaws = flaws_of_work(mongo, database, path, tasks, counted=False)
            if held:
                flaws.append(f"still held: {held}")
            if max(took_s, finish_s) > STOP_S:
                flaws.append(f"took {took_s:.1f} s to leave, and {finish_s:.1f} s to finish")
            bad.extend(f"cancelled {at}: {flaw}" for flaw in flaws)
            sweep.note(f"cancelled {at}", flaws, {"work": took_s, "finish": finish_s})

    with lent.lend() as database:
        await put_all(mongo, database)
        count = await work(uri, database, Pen(tmp_path / "count.log"), 0, "before")
    await sweep.run(case, sweep.choose(all_of(count), DRAWN), AT_A_TIME)
    assert not bad, "\n".join([*bad, sweep.again])
