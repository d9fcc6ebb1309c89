"""Wrong clocks of clients change nothing: the server's clock decides about leases, delays, expiry and schedules.

One run for all tests: three programs that put and work in one queue, one an hour ahead, one an hour behind, one whose
clock jumps between both.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
from pymongo import MongoClient

from tests import clocks
from tests.chaos.actor import ROOT
from tests.clocks import WrongClock, needs_faketime
from tests.databases import drop_collections
from tests.faults.wrong_clock import DELAYS_S

pytestmark = needs_faketime

HOUR_S: Final = 3_600.0
JUMP_S: Final = 0.2
RUN_S: Final = 60.0
MILLISECOND_S: Final = 0.002
"""The server's dates have milliseconds, and so has what is compared with them."""

LATE_S: Final = 20.0
"""What a busy machine may be late; far less than any of the clocks is wrong."""

Line = dict[str, Any]


class Run(msgspec.Struct, frozen=True):
    """What the programs said, and what is stored at the end."""

    lines: dict[str, list[Line]]
    statuses: list[str]

    def all(self, what: str) -> list[Line]:
        """Return the lines of one kind, of all programs."""
        return [line for lines in self.lines.values() for line in lines if line["what"] == what]


class Program:
    """One of them."""

    def __init__(self, uri: str, database: str, name: str, clock: WrongClock) -> None:
        self.name = name
        self.clock = clock
        self.lines: list[Line] = []
        self._unread = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.wrong_clock", uri, database, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **clock.environment},
            bufsize=0,
        )

    @property
    def fileno(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    @property
    def is_done(self) -> bool:
        return any(line["what"] == "done" for line in self.lines)

    def read(self) -> None:
        """Take in what it has said; fail if it has ended."""
        chunk = os.read(self.fileno, 65_536)
        assert chunk, f"{self.name} ended with {self.process.wait()}"
        *whole, self._unread = (self._unread + chunk).split(b"\n")
        self.lines += map(msgspec.json.decode, whole)

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        clocks.forget(self.process.pid)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="module")
def run(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Let them put and work until each knows the results of all that it has put."""
    directory, database = tmp_path_factory.mktemp("clocks"), f"test_{uuid.uuid4().hex[:12]}"
    offsets = {"ahead": HOUR_S, "behind": -HOUR_S, "jumping": HOUR_S}
    programs = [
        Program(server.uri, database, name, WrongClock(directory / name, offset_s, cache_s=0))
        for name, offset_s in offsets.items()
    ]
    try:
        _watch(programs)
        with MongoClient[Line](server.uri) as client:
            stored = [document["status"] for document in client[database].tasks.find({"task": {"$exists": True}})]
            yield Run({one.name: one.lines for one in programs}, stored)
            drop_collections(client, database)
    finally:
        for program in programs:
            program.end()


def _watch(programs: list[Program]) -> None:
    jumping = programs[-1].clock
    by_pipe = {one.fileno: one for one in programs}
    deadline = time.monotonic() + RUN_S
    while not all(one.is_done for one in programs):
        assert time.monotonic() < deadline, "the programs did not hear of the end of all tasks"
        for pipe in select.select(list(by_pipe), [], [], JUMP_S)[0]:
            by_pipe[pipe].read()
        jumping.set(-jumping.offset_s)


def test_clocks_were_as_wrong_as_they_should(run: Run) -> None:
    """The control: else the others would prove nothing."""
    off = {
        name: [line["wall"] - time.time() for line in lines if line["what"] == "time"]
        for name, lines in run.lines.items()
    }
    assert min(off["ahead"]) > HOUR_S / 2
    assert max(off["behind"]) < -HOUR_S / 2
    assert min(off["jumping"]) < -HOUR_S / 2 < HOUR_S / 2 < max(off["jumping"])


def test_no_lease_is_taken_by_a_wrong_clock(run: Run) -> None:
    """All tasks were begun once, and by all programs; each second all looked for leases that have ended."""
    began = Counter(line["id"] for line in run.all("began"))
    assert began.keys() == {line["id"] for line in run.all("put")}
    assert set(began.values()) == {1}
    assert {line["by"] for line in run.all("began")} == {"ahead", "behind", "jumping"}


def test_no_delay_is_changed_by_a_wrong_clock(run: Run) -> None:
    began = {line["id"]: line["at"] for line in run.all("began")}
    put = [line for line in run.all("put") if line["delay_s"]]
    assert len(put) == 3 * len(DELAYS_S)
    late_s = [began[line["id"]] - line["sent_at"] - line["delay_s"] for line in put]
    assert min(late_s) > -MILLISECOND_S
    assert max(late_s) < LATE_S


def test_no_slot_is_fired_by_a_wrong_clock(run: Run) -> None:
    """Each once, when its time has come by the server's clock, which is this machine's."""
    since = time.time() - time.monotonic()
    fired = run.all("slot")
    late_s = [line["at"] + since - line["slot"] for line in fired]
    assert len(fired) >= 2
    assert max(Counter(line["slot"] for line in fired).values()) == 1
    assert min(late_s) > -MILLISECOND_S
    assert max(late_s) < LATE_S


def test_nothing_is_lost_or_expires_by_a_wrong_clock(run: Run) -> None:
    assert run.all("error") == []
    assert set(run.statuses) <= {"succeeded", "running", "ready"}, "the last slots may not be through yet"
    assert run.statuses.count("succeeded") >= len(run.all("put"))
