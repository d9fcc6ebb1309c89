"""The promises with real processes: killed, stopped, frozen, racing; and a million tasks that wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
import trio
from bson import ObjectId
from bson.timestamp import Timestamp
from pymongo.write_concern import WriteConcern

from streamq import BlockingTask, StreamQ
from tests.long_form import sized
from tests.patience import eventually, freeze

FREEZES: Final = sized(1, 20)
ZOMBIES: Final = sized(50, 100)
"""Tasks in the hands of one that is frozen past their leases, at each freeze."""

PROCESSES: Final = sized(4, 16)
"""Those that race for the tasks of one queue, with two consumers each."""

HAND: Final = Path(__file__).with_name("hand.py")


class Hand:
    """One worker process, ready."""

    def __init__(self, mode: str, uri: str, database: str, log: Path) -> None:
        argv = [sys.executable, str(HAND), mode, database, str(log)]
        environment = {**os.environ, "STREAMQ_URI": uri}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, env=environment, stdin=pipe, stdout=pipe, text=True)

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def tell(self, line: str) -> None:
        self.process.communicate(line + "\n", timeout=20)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.communicate()


class Hire(Protocol):
    def __call__(self, mode: str, log: str = "log") -> Hand: ...


@pytest.fixture
def hire(uri: str, database: str, tmp_path: Path) -> Iterator[Hire]:
    """Start worker processes; those that still run when the test ends are killed."""
    hands: list[Hand] = []

    def start(mode: str, log: str = "log") -> Hand:
        hand = Hand(mode, uri, database, tmp_path / log)
        hands.append(hand)
        return hand

    yield start
    for hand in hands:
        hand.end()


@pytest.fixture
def app(uri: str, database: str) -> Iterator[StreamQ]:
    """An app that puts and looks, beside the workers."""
    app = StreamQ(uri, database=database, safety_scan_s=None)
    yield app
    app.close()


def put(app: StreamQ, count: int) -> list[ObjectId]:
    @app.task
    async def job(number: int) -> str:
        raise AssertionError("it runs in the worker processes")

    return [reply.id for reply in app.blocking.put_many([job.new(number) for number in range(count)])]


def lines(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def began(log: Path) -> int:
    return sum(words[0] == "began" for words in lines(log))


def counts(app: StreamQ, queue: str = "default") -> dict[str, int]:
    return dict(app.store.counts().get(queue, {}))


def documents(app: StreamQ, database: str) -> list[dict[str, Any]]:
    return list(app.client[database].tasks.find({"status": {"$exists": True}}))


def test_tasks_of_a_worker_that_was_killed_all_run_again_after_its_lease(
    hire: Hire, app: StreamQ, database: str, tmp_path: Path
) -> None:
    put(app, 50)
    victim = hire("short-lease")
    victim.wait_ready()
    assert eventually(lambda: began(tmp_path / "log") == 50, 20)
    victim.send(signal.SIGKILL)
    victim.process.wait()
    heir = hire("short-lease", "heir")
    heir.wait_ready()
    assert eventually(lambda: counts(app) == {"succeeded": 50}, 20)
    for document in documents(app, database):
        assert document["attempt"] == 2
        assert document["result"] == f"by {heir.process.pid}"
        assert [error["type"] for error in document["errors"]] == ["LeaseExpired"]
    assert Counter(words[1] for words in lines(tmp_path / "heir")) == {str(number): 1 for number in range(50)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_that_is_asked_to_stop_gives_its_tasks_back_at_once(
    hire: Hire, app: StreamQ, database: str, tmp_path: Path, number: signal.Signals
) -> None:
    put(app, 60)
    worker = hire("long-lease")
    worker.wait_ready()
    assert eventually(lambda: began(tmp_path / "log") == 50, 20)
    asked_at = time.monotonic()
    worker.send(number)
    worker.process.wait(timeout=10)
    assert time.monotonic() - asked_at < 3
    assert counts(app) == {"ready": 60}
    assert {document["attempt"] for document in documents(app, database)} == {0}
    assert sum(words[0] == "cancelled" for words in lines(tmp_path / "log")) == 50
    assert app.client[database].tasks.count_documents({"kind": "member"}) == 0


def test_consumers_in_several_processes_run_each_task_once(hire: Hire, app: StreamQ, tmp_path: Path) -> None:
    hands = [hire("consume") for _ in range(PROCESSES)]
    queue = app.blocking.queue("race")
    queue.put_many(range(1_000))  # some wait already when they come, some come while they run
    for hand in hands:
        hand.wait_ready()
    for start in range(1_000, 5_000, 500):
        queue.put_many(range(start, start + 500))
    assert eventually(lambda: len(lines(tmp_path / "log")) >= 5_000, 60)
    assert eventually(lambda: counts(app, "race") == {"succeeded": 5_000}, 10)
    for hand in hands:
        hand.send(signal.SIGTERM)
    for hand in hands:
        assert hand.process.wait(timeout=10) == 0
    ran = Counter(int(words[1]) for words in lines(tmp_path / "log"))
    assert ran == dict.fromkeys(range(5_000), 1)
    assert len({words[2] for words in lines(tmp_path / "log")}) == PROCESSES, "all took part"


@pytest.mark.parametrize("mode", ["short-lease", "own-lease"])
def test_worker_frozen_past_its_lease_loses_its_task_and_changes_nothing_when_it_wakes(
    hire: Hire, app: StreamQ, database: str, tmp_path: Path, mode: str
) -> None:
    put(app, 1)
    frozen = hire(mode)
    frozen.wait_ready()
    assert eventually(lambda: began(tmp_path / "log") == 1, 20)
    freeze(frozen.process.pid)
    heir = hire(mode, "heir")
    heir.wait_ready()
    assert eventually(lambda: counts(app) == {"succeeded": 1}, 20)
    (before,) = documents(app, database)
    frozen.send(signal.SIGCONT)
    assert eventually(lambda: ["cancelled", "0", str(frozen.process.pid)] in lines(tmp_path / "log"), 10)
    frozen.send(signal.SIGTERM)
    assert frozen.process.wait(timeout=10) == 0
    assert documents(app, database) == [before]
    assert before["result"] == f"by {heir.process.pid}"


@pytest.mark.parametrize("freeze_number", range(FREEZES))
def test_settlements_of_a_holder_that_was_frozen_past_its_leases_are_refused(
    hire: Hire, app: StreamQ, database: str, tmp_path: Path, freeze_number: int
) -> None:
    put(app, ZOMBIES)
    late = hire("settle-late")
    late.wait_ready()
    freeze(late.process.pid)
    taken: list[BlockingTask] = []
    while len(taken) < ZOMBIES:
        taken += app.blocking.queue("default").claim_many(ZOMBIES, wait_s=20)
    assert {task.info.attempt for task in taken} == {2}
    for task in taken[::2]:
        task.succeed("fresh")
    before = documents(app, database)
    late.send(signal.SIGCONT)
    late.tell("settle now")
    assert [words[0] for words in lines(tmp_path / "log")] == ["LeaseLost"] * ZOMBIES
    assert documents(app, database) == before
    for task in taken[1::2]:  # which run when the late settlements come
        task.succeed("fresh")
    assert [one["result"] for one in documents(app, database)] == ["fresh"] * ZOMBIES


MANY: Final = 1_000_000


async def test_worker_claims_promptly_from_a_million_waiting_tasks(app: StreamQ, database: str) -> None:
    """A claim examines as many keys as it returns, whatever waits behind them."""
    await trio.to_thread.run_sync(app.store.prepare)
    waiting = app.client[database].get_collection("tasks", write_concern=WriteConcern(w=1))

    def insert() -> None:
        for _ in range(MANY // 10_000):
            waiting.insert_many([_minimal() for _ in range(10_000)], ordered=False)

    await trio.to_thread.run_sync(insert)
    began_at = time.monotonic()
    taken = 0
    async with app, app.queue("big").consume(prefetch=500) as tasks:
        async for task in tasks:
            if not taken:
                first_s = time.monotonic() - began_at
            await task.succeed()
            taken += 1
            if taken == 200:
                break
        all_s = time.monotonic() - began_at
    assert first_s < 2
    assert all_s < 10
    assert counts(app, "big") == {"ready": MANY - 200, "succeeded": 200}


def _minimal() -> dict[str, Any]:
    return {
        "queue": "big",
        "task": None,
        "status": "ready",
        "priority": 0,
        "seq": Timestamp(0, 0),
        "payload": 1,
        "attempt": 0,
        "max_attempts": 5,
    }
