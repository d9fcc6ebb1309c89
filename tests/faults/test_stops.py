"""Workers are asked to stop under load: they end soon, and what they had not ended is ready for others at once."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Final

import trio
import trio.testing

from streamq import StreamQ
from tests.databases import Databases, Mongo
from tests.faults.mortal import GRACE_S
from tests.faults.program import Dying, dying
from tests.faults.script import lines
from tests.long_form import sized

STOPS: Final = sized(20, 500)
LANES: Final = 4
TASKS_EACH: Final = 100
"""Of each worker: more than it gets through before it is asked."""

LOAD_S: Final = 0.2
"""How long a worker is at work before it is asked, at most."""

MOST_S: Final = GRACE_S + sized(10.0, 1.5)
"""How long its end may take; the short form is run beside other tests."""

SOON_S: Final = 30.0


def put(uri: str, database: str) -> int:
    """Store the tasks; return how many."""
    app = StreamQ(uri, database=database)

    @app.task
    async def busy() -> None: ...

    count = STOPS * TASKS_EACH
    app.blocking.put_many(busy.new() for _ in range(count))
    app.close()
    return count


async def said(path: Path, what: str) -> list[str]:
    """Wait until a program has written that; return it."""
    with trio.fail_after(SOON_S):
        while True:
            found = next((words for words in lines(path) if words[0] == what), None)
            if found is not None:
                return found
            await trio.sleep(0.01)


async def test_worker_that_is_asked_to_stop_under_load_ends_in_time_and_holds_nothing(
    uri: str, databases: tuple[Mongo, Databases], tmp_path: Path
) -> None:
    mongo, lent = databases
    took_s: list[float] = []

    async def stopped(program: Dying, database: str) -> None:
        paths: list[Path] = []
        codes: list[int] = []

        async def run() -> None:
            code, _ = await program.run("stopped", uri, database, 0, begun=paths.append)
            codes.append(code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            _, pid, worker = await said(paths[0], "worker")
            await said(paths[0], "began")
            await trio.sleep(random.uniform(0, LOAD_S))
            os.kill(int(pid), signal.SIGTERM)
            asked_at = trio.current_time()
        took_s.append(trio.current_time() - asked_at)
        held = mongo[database].tasks.count_documents({"status": "running", "worker": worker})
        assert (codes, held) == ([0], 0)

    async def lane(program: Dying, database: str) -> None:
        for _ in range(STOPS // LANES):
            await stopped(program, database)

    with lent.lend() as database:
        count = await trio.to_thread.run_sync(put, uri, database)
        async with dying(tmp_path) as program, trio.open_nursery() as lanes:
            for _ in range(LANES):
                lanes.start_soon(lane, program, database)
        stored = list(mongo[database].tasks.find({"status": {"$exists": True}}, {"status": 1, "attempt": 1}))
    assert len(took_s) == STOPS
    assert max(took_s) < MOST_S
    # No lease was waited for, and none of what was given back counts as an attempt.
    assert {(one["status"], one["attempt"]) for one in stored} == {("succeeded", 1), ("ready", 0)}
    assert len(stored) == count
