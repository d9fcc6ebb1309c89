"""A program is killed before and after every call to the server: what it had acknowledged is there, another goes on.

The commands of a whole run are counted first, then the program is killed at each of them, before it is sent and after
its answer has come; several programs at a time, each in a database of its own. Which are drawn: see `Sweep`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from bson import ObjectId

from tests.databases import Databases, Mongo
from tests.faults.commands import Place, all_of
from tests.faults.dying import Role
from tests.faults.orders import ORDERS
from tests.faults.program import Dying, dying
from tests.faults.remains import LONGEST_S, TRANSACTION_S, broken_in, finish, flaws_of_work, put_all
from tests.faults.script import Pen, lines
from tests.faults.sweep import Sweep
from tests.long_form import sized

AT_A_TIME: Final = 6
DRAWN: Final[dict[Role, int]] = sized({"worker": 10, "producer": 6}, {"worker": sys.maxsize, "producer": sys.maxsize})
"""The long form takes all."""

SWEEPS: Final = sized(1, 20)
"""How often a program dies at the same call: what goes on beside it there is never the same twice."""


@pytest.fixture
def databases(databases: tuple[Mongo, Databases]) -> Iterator[tuple[Mongo, Databases]]:
    """The same, on a server that lets no transaction stay open for long."""
    admin = databases[0].admin
    before = admin.command("getParameter", 1, transactionLifetimeLimitSeconds=1)
    admin.command("setParameter", 1, transactionLifetimeLimitSeconds=TRANSACTION_S)
    yield databases
    limit_s = before["transactionLifetimeLimitSeconds"]
    admin.command("setParameter", 1, transactionLifetimeLimitSeconds=limit_s)


async def sent_by(program: Dying, role: Role, uri: str, mongo: Mongo, databases: Databases) -> int:
    """Run a script to its end; return how many commands that takes."""
    with databases.lend() as database:
        if role == "worker":
            await put_all(mongo, database)
        code, path = await program.run(role, uri, database, 0)
        assert code == 0
        return next(int(words[1]) for words in lines(path) if words[0] == "sent")


# --- a worker -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number_of_sweep", range(SWEEPS))
async def test_worker_killed_at_any_call_leaves_nothing_that_another_does_not_finish(
    uri: str, databases: tuple[Mongo, Databases], sweep: Sweep, tmp_path: Path, number_of_sweep: int
) -> None:
    mongo, lent = databases
    bad: list[str] = []

    async def case(number: int, at: Place) -> None:
        with lent.lend() as database:
            tasks = await put_all(mongo, database)
            code, path = await program.run("worker", uri, database, at.nth, at.when)
            took_s = await finish(mongo, database, Pen(path))
            flaws = flaws_of_work(mongo, database, path, tasks)
            if took_s > LONGEST_S:
                flaws.append(f"took {took_s:.1f} s to finish")
            if code not in (-signal.SIGKILL, 0):
                flaws.append(f"ended with {code}")
            bad.extend(f"killed {at}: {flaw}" for flaw in flaws)
            sweep.note(f"killed {at}", flaws, {"finish": took_s})

    async with dying(tmp_path) as program:
        count = await sent_by(program, "worker", uri, mongo, lent)
        await sweep.run(case, sweep.choose(all_of(count), DRAWN["worker"]), AT_A_TIME)
    assert not bad, "\n".join([*bad, sweep.again])


# --- a producer ---------------------------------------------------------------------------------------------------


def flaws_of_puts(mongo: Mongo, database: str, path: Path) -> list[str]:
    """Say what is not as it should be after a producer's death: what it was told is stored is, what it has not tried is
    not, and nothing is half."""
    said: dict[str, set[ObjectId]] = {"tried": set(), "stored": set()}
    for what, *ids in lines(path):
        if what in said:
            said[what].update(map(ObjectId, ids))
    stored = {one["_id"]: one for one in mongo[database].tasks.find({"status": {"$exists": True}})}
    flaws = broken_in(mongo, database)
    if lost := said["stored"] - stored.keys():
        flaws.append(f"{len(lost)} acknowledged tasks are lost")
    if phantoms := stored.keys() - said["tried"]:
        flaws.append(f"{len(phantoms)} tasks were never put")
    fields = {"queue", "status", "payload", "attempt", "max_attempts", "priority", "seq"}
    if torn := [one for one in stored.values() if not fields <= one.keys()]:
        flaws.append(f"{len(torn)} tasks are not whole")
    ordered = {one["_id"] for one in mongo[ORDERS].orders.find({"_id": {"$in": list(said["tried"])}})}
    if ordered != {id for id, one in stored.items() if one.get("payload") == "ordered"}:
        flaws.append("of the order and its task one is stored without the other")
    return flaws


@pytest.mark.parametrize("number_of_sweep", range(SWEEPS))
async def test_producer_killed_at_any_call_has_stored_what_was_acknowledged_and_nothing_half(
    uri: str, databases: tuple[Mongo, Databases], sweep: Sweep, tmp_path: Path, number_of_sweep: int
) -> None:
    mongo, lent = databases
    bad: list[str] = []

    async def case(number: int, at: Place) -> None:
        with lent.lend() as database:
            code, path = await program.run("producer", uri, database, at.nth, at.when)
            flaws = flaws_of_puts(mongo, database, path)
            if code not in (-signal.SIGKILL, 0):
                flaws.append(f"ended with {code}")
            bad.extend(f"killed {at}: {flaw}" for flaw in flaws)
            sweep.note(f"producer killed {at}", flaws, {})

    async with dying(tmp_path) as program:
        count = await sent_by(program, "producer", uri, mongo, lent)
        await sweep.run(case, sweep.choose(all_of(count), DRAWN["producer"]), AT_A_TIME)
    assert not bad, "\n".join([*bad, sweep.again])
