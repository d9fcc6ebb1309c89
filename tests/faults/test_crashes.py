"""A program is killed before and after every call to the server: what it had acknowledged is there, another goes on.

The commands of a whole run are counted first, then the program is killed at each of them, before it is sent and after
its answer has come; several programs at a time, each in a database of its own. Which are drawn: see `Sweep`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest
import trio
from bson import ObjectId

from streamq.core.document import TERMINAL
from streamq.core.invariants import INVARIANTS
from streamq.store.mongo import MongoStore
from tests.databases import Databases
from tests.faults.commands import When, all_of
from tests.faults.dying import Death, Order, Role
from tests.faults.script import ORDERS, Expected, Handlers, Mongo, Pen, app_on, lines
from tests.faults.sweep import Sweep

AT_A_TIME: Final = 6
DRAWN: Final[dict[Role, int]] = {"worker": 10, "producer": 6}

TRANSACTION_S: Final = 2
"""How long a transaction may be open on the server meanwhile: a minute by default. The lease of a task that is in one
is twice that."""

LONGEST_S: Final = 2 * TRANSACTION_S + 20.0
"""How long after a worker's death all that it left must have ended: its leases have to, the rest is for a machine that
is busy with other tests."""

CHILD_S: Final = 60.0


class Dying:
    """The program that forks those that die."""

    def __init__(self, orders: trio.abc.SendStream, deaths: trio.abc.ReceiveStream, directory: Path) -> None:
        self._to, self._from = orders, deaths
        self._turn = trio.Lock()
        self._directory = directory
        self._deaths: dict[int, trio.Event] = {}
        self._codes: dict[int, int] = {}
        self._next = 0

    async def run(self, role: Role, uri: str, database: str, nth: int, when: When = "before") -> tuple[int, Path]:
        """Run a script to its death, or to its end; return how it ended, and what it has written."""
        self._next += 1
        number = self._next
        path = self._directory / f"{number}.log"
        self._deaths[number] = trio.Event()
        order = Order(number, role, uri, database, str(path), nth, when)
        async with self._turn:
            await self._to.send_all(msgspec.json.encode(order) + b"\n")
        with trio.fail_after(CHILD_S):
            await self._deaths[number].wait()
        return self._codes[number], path

    async def hear(self) -> None:
        """Read how they ended."""
        rest = b""
        async for data in self._from:
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                death = msgspec.json.decode(line, type=Death)
                self._codes[death.number] = death.code
                self._deaths[death.number].set()


@asynccontextmanager
async def dying(directory: Path) -> AsyncIterator[Dying]:
    """Start it."""
    command = [sys.executable, "-m", "tests.faults.dying"]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    orders, deaths = process.stdin, process.stdout
    assert orders is not None
    assert deaths is not None
    async with deaths:
        try:
            async with orders, trio.open_nursery() as nursery:
                made = Dying(orders, deaths, directory)
                nursery.start_soon(made.hear)
                yield made
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await process.wait()  # it ends with its orders


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


async def put_all(mongo: Mongo, database: str) -> dict[ObjectId, Expected]:
    """Store what a worker is to find."""
    store = MongoStore(mongo, database)
    nowhere = Pen(Path("/dev/null"))
    made = Handlers(app_on(mongo, database, nowhere), nowhere).tasks()
    await trio.to_thread.run_sync(store.put, [new for new, _ in made])
    return {new.id: expected for new, expected in made}


async def finish(mongo: Mongo, database: str, pen: Pen) -> float:
    """Let another worker go on until all has ended; return how long that took."""
    began_at = time.monotonic()
    app = app_on(mongo, database, pen)
    Handlers(app, pen)
    open_tasks = {"status": {"$exists": True, "$nin": list(TERMINAL)}}
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        with trio.move_on_after(LONGEST_S):
            while mongo[database].tasks.count_documents(open_tasks):  # noqa: ASYNC110
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    return time.monotonic() - began_at


def flaws_of_work(
    mongo: Mongo, database: str, path: Path, tasks: dict[ObjectId, Expected], *, counted: bool = True
) -> list[str]:
    """Say what is not as it should be after a worker's end and another's work; `counted`: it was killed, and what it
    had begun counts as an attempt."""
    began = Counter(ObjectId(words[1]) for words in lines(path) if words[0] == "began")
    lapsed = sum(words == ["lapsed"] for words in lines(path))
    stored = {one["_id"]: one for one in mongo[database].tasks.find({"status": {"$exists": True}})}
    flaws = broken_in(mongo, database)
    for id, task in tasks.items():
        document = stored.get(id)
        if document is None and task.kept:
            flaws.append(f"{task.name} is lost")
        if document is not None and not task.kept:
            flaws.append(f"{task.name} is still stored, {document['status']}")
        if document is not None and task.kept and document["status"] not in task.statuses:
            flaws.append(f"{task.name} is {document['status']}")
        if not task.least <= began[id] <= task.most + lapsed:
            flaws.append(f"{task.name} was begun {began[id]} times")
        if counted and document is not None and document["attempt"] < began[id]:
            flaws.append(f"{task.name} counts {document['attempt']} attempts and was begun {began[id]} times")
    wanted = Counter(id for id, task in tasks.items() if task.name == "pay")
    paid = Counter(one["paid"] for one in mongo[ORDERS].orders.find({"paid": {"$in": list(wanted)}}))
    if paid != wanted:
        flaws.append(f"paid {sum(paid.values())} times, not {sum(wanted.values())}")
    return flaws


def broken_in(mongo: Mongo, database: str) -> list[str]:
    """Name what must hold of every stored task and does not."""
    tasks = mongo[database].tasks
    return [f"not so: {one.what}" for one in INVARIANTS if tasks.count_documents(one.broken)]


async def test_worker_killed_at_any_call_leaves_nothing_that_another_does_not_finish(
    uri: str, databases: tuple[Mongo, Databases], sweep: Sweep, tmp_path: Path
) -> None:
    mongo, lent = databases
    bad: list[str] = []

    async def case(number: int, given: tuple[int, When]) -> None:
        nth, when = given
        with lent.lend() as database:
            tasks = await put_all(mongo, database)
            code, path = await program.run("worker", uri, database, nth, when)
            took_s = await finish(mongo, database, Pen(path))
            flaws = flaws_of_work(mongo, database, path, tasks)
            if took_s > LONGEST_S:
                flaws.append(f"took {took_s:.1f} s to finish")
            if code not in (-signal.SIGKILL, 0):
                flaws.append(f"ended with {code}")
            bad.extend(f"killed {when} command {nth}: {flaw}" for flaw in flaws)
            sweep.note(f"killed {when} command {nth}", flaws, {"finish": took_s})

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


async def test_producer_killed_at_any_call_has_stored_what_was_acknowledged_and_nothing_half(
    uri: str, databases: tuple[Mongo, Databases], sweep: Sweep, tmp_path: Path
) -> None:
    mongo, lent = databases
    bad: list[str] = []

    async def case(number: int, given: tuple[int, When]) -> None:
        nth, when = given
        with lent.lend() as database:
            code, path = await program.run("producer", uri, database, nth, when)
            flaws = flaws_of_puts(mongo, database, path)
            if code not in (-signal.SIGKILL, 0):
                flaws.append(f"ended with {code}")
            bad.extend(f"killed {when} command {nth}: {flaw}" for flaw in flaws)

    async with dying(tmp_path) as program:
        count = await sent_by(program, "producer", uri, mongo, lent)
        await sweep.run(case, sweep.choose(all_of(count), DRAWN["producer"]), AT_A_TIME)
    assert not bad, "\n".join([*bad, sweep.again])
