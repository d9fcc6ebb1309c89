"""Poison at the head of a queue: it ends failed when its attempts are used up, and what is behind it gets through."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any, Final, get_args

import msgspec
import pytest
import trio
from pymongo import MongoClient

from streamq import StreamQ
from streamq.core.document import TERMINAL
from streamq.embedded import EmbeddedServer
from tests.chaos.actor import ROOT
from tests.databases import drop_collections
from tests.faults.poisoned import MOST, RETRY, Poison, good, poison
from tests.integration.conftest import MakeApp, make_app
from tests.long_form import sized

__all__ = ["make_app"]

GOOD: Final = 200
SLOTS: Final = 16
RUN_S: Final = sized(90.0, 1_800.0)
LOOK_S: Final = 0.05
Document = dict[str, Any]


class Run(msgspec.Struct, frozen=True):
    """What is stored at the end."""

    poison: Document
    good: list[Document]


class Worker:
    """It is started again whenever it ends, as under a supervisor. One alone: between two the tasks would be shared out
    by chance."""

    def __init__(self, uri: str, database: str) -> None:
        self._argv = [sys.executable, "-m", "tests.faults.poisoned", uri, database, str(SLOTS)]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def mind(self) -> None:
        """Start it anew if it has ended."""
        if self._process.poll() is not None:
            _close(self._process)
            self._process = self._start()

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        _close(self._process)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


@pytest.fixture(scope="module")
def run(server: EmbeddedServer) -> Iterator[Run]:
    """Put the poison first, then what is good; work until all has ended."""
    database = f"test_{uuid.uuid4().hex[:12]}"
    app = StreamQ(server.uri, database=database, retry=RETRY)
    bad, fine = app.task(queue="q", retry=RETRY)(poison), app.task(queue="q", retry=RETRY)(good)
    try:
        app.blocking.put_many([bad.new("exit"), *(fine.new(number) for number in range(GOOD))])
        worker = Worker(server.uri, database)
        try:
            deadline = time.monotonic() + RUN_S
            while not all_have_ended(app):
                assert time.monotonic() < deadline, f"the queue stands still: {app.blocking.counts()}"
                worker.mind()
                time.sleep(LOOK_S)
        finally:
            worker.end()
        with MongoClient[Document](server.uri) as client:
            tasks = client[database].tasks
            yield Run(tasks.find_one({"task": "poison"}) or {}, list(tasks.find({"task": "good"})))
            drop_collections(client, database)
    finally:
        app.close()


def all_have_ended(app: StreamQ) -> bool:
    return app.blocking.counts().get("q", {}).keys() <= set(TERMINAL)


def test_poison_that_ends_its_process_fails_when_its_attempts_are_used_up(run: Run) -> None:
    """An attempt counts from its claim: no worker lived to tell that it failed."""
    assert (run.poison["status"], run.poison["attempt"]) == ("failed", MOST)
    assert [error["type"] for error in run.poison["errors"]] == ["LeaseExpired"] * MOST


def test_what_is_behind_the_poison_gets_through(run: Run) -> None:
    """What runs beside it dies with it; that it is not the same each time takes longer than CI has (the rule itself has
    a test in `tests/conformance/test_due.py`)."""
    assert len(run.good) == GOOD
    assert {document["status"] for document in run.good} <= {"succeeded", "failed"}
    fallen = [document["attempt"] for document in run.good if document["status"] == "failed"]
    assert len(fallen) < sized(SLOTS, SLOTS // 4)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("hungry", "MemoryError"),
        ("big", "PayloadTooLarge"),
        ("odd payload", "PayloadUndecodable"),
        ("block", None),
    ],
)
async def test_poison_that_its_worker_survives_holds_up_nobody(
    make_app: MakeApp, database: str, kind: Any, error: str | None
) -> None:
    app = make_app(retry=RETRY, lease_s=1.0)
    bad, fine = app.task(queue="q", retry=RETRY)(poison), app.task(queue="q", retry=RETRY)(good)
    async with app, trio.open_nursery() as nursery:
        one = await bad.put(kind if kind in get_args(Poison) else "big")
        handles = [await fine.put(number) for number in range(20)]
        if kind not in get_args(Poison):
            app.client[database].tasks.update_one({"_id": one.id}, {"$set": {"payload": {"kind": 7}}})
        await nursery.start(lambda task_status: app.work({"q": 4}, task_status=task_status))
        with trio.fail_after(RUN_S):
            assert [await handle.result() for handle in handles] == list(range(20))
            ended = await one.wait()
        nursery.cancel_scope.cancel()
    assert ended["status"] in (["failed"] if error else ["succeeded", "failed"])
    assert ended["attempt"] <= MOST
    if error:
        assert ended["errors"][-1]["type"] == error
