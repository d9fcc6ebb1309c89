"""Workers are killed in the middle of a task, schedulers with them: what they held begins again soon after its leases
have ended, and never before."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from streamq import Retry, StreamQ
from tests.databases import Databases, Mongo
from tests.faults.mortal import ATTEMPTS
from tests.faults.program import Dying, dying
from tests.faults.remains import all_ended
from tests.faults.script import lines
from tests.long_form import sized

KILLS: Final = sized(15, 1_000)
"""Each way."""

LATE_S: Final = sized(45.0, 15.0)
"""By how much later than its lease's end a task may begin again, with a worker to be started for it, which the next
kill may hit. What is held a second time goes back apart, within as long as its claim had lasted (2 s). The short form
is run beside other tests."""

LONGEST_S: Final = sized(90.0, 3_600.0)


def tasks(uri: str, database: str, count: int) -> None:
    """Store them."""
    app = StreamQ(uri, database=database)

    @app.task(retry=Retry(max_attempts=ATTEMPTS))
    async def mortal() -> None: ...

    app.blocking.put_many([mortal.new() for _ in range(count)])
    app.close()


@pytest.mark.parametrize("beside", [0, 2], ids=["and with them all schedulers", "beside others"])
async def test_what_a_killed_worker_held_begins_again_soon_after_its_lease_and_not_before(
    uri: str, databases: tuple[Mongo, Databases], tmp_path: Path, beside: int
) -> None:
    mongo, lent = databases
    kills = 0

    async def lane(program: Dying) -> None:
        nonlocal kills
        while kills < KILLS:
            code, _ = await program.run("mortal", uri, database, 0)
            kills += code == -signal.SIGKILL  # else it found no server in time, and is started again

    with lent.lend() as database:
        await trio.to_thread.run_sync(tasks, uri, database, 3 * KILLS)
        async with dying(tmp_path) as program:
            with trio.fail_after(LONGEST_S):
                async with trio.open_nursery() as lanes:
                    for _ in range(1 + beside):
                        lanes.start_soon(lane, program)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(program.run, "survivor", uri, database, 0, child_s=LONGEST_S))
                with trio.fail_after(LONGEST_S):
                    await all_ended(mongo, database)
                nursery.cancel_scope.cancel()
        statuses = mongo[database].tasks.distinct("status", {"status": {"$exists": True}})
    assert statuses == ["succeeded"]
    late_ms = lateness(tmp_path)
    assert len(late_ms) >= KILLS
    assert min(late_ms) >= 0, "a lease was stolen"
    assert max(late_ms) < LATE_S * 1000


def lateness(directory: Path) -> list[int]:
    """Return of each lease that ended with its worker how much later its task began again, by the server's clock."""
    said: dict[str, dict[tuple[str, int], int]] = {"began": {}, "held": {}}
    for path in directory.glob("*.log"):
        for what, *rest in lines(path):
            if what in said:
                said[what][rest[0], int(rest[1])] = int(rest[2])
    began, held = said["began"], said["held"]
    return [began[id, attempt + 1] - until for (id, attempt), until in held.items() if (id, attempt + 1) in began]
