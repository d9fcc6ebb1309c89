"""More than can be done: a flood of puts, a crowd that fails at once, all connections lost, a pause with much that is
due."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from collections import Counter
from typing import Any, Final

import msgspec
import trio

from streamq import LeaseLost, Retry, StoreError, StreamQ, current_task
from streamq.embedded import EmbeddedServer
from tests.chaos.actor import ROOT
from tests.faults import flooded
from tests.integration.conftest import MakeApp, Mongo, make_app, mongo
from tests.long_form import sized
from tests.patience import eventually
from tests.proxy import Proxy

__all__ = ["make_app", "mongo"]

LONG_S: Final = sized(120.0, 1_800.0)
"""What has not come by then has stopped to come. No measure of speed: a machine that others use may be ten times slower
than a quiet one."""


# --- a flood of puts -------------------------------------------------------------------------------------------------

FLOOD_S: Final = sized(1.5, 60.0)
WARM: Final = 0.3
"""The part of a flood after which a process is warm."""

GROWTH_MB: Final = sized(8.0, 20.0)
"""What memory may grow by when warm: less than the backlog's payloads alone would take."""


class Program:
    """A process of the flood, and what it has said."""

    def __init__(self, role: str, uri: str, database: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self._unread = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.flooded", role, uri, database],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            bufsize=0,
        )

    def read(self) -> list[dict[str, Any]]:
        """Take in what it has said since, without waiting."""
        stdout = self._process.stdout
        assert stdout is not None
        while select.select([stdout], [], [], 0)[0]:
            chunk = os.read(stdout.fileno(), 65_536)
            assert chunk, "a program of the flood has ended"
            *whole, self._unread = (self._unread + chunk).split(b"\n")
            self.lines += map(msgspec.json.decode, whole)
        return self.lines

    def growth_mb(self) -> float:
        """Say by how much its memory grew once it was warm."""
        warm = self.lines[int(len(self.lines) * WARM) :]
        return float(max(line["rss_mb"] for line in warm) - warm[0]["rss_mb"])

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def test_flood_of_puts_makes_no_process_grow_and_is_drained_after(
    server: EmbeddedServer, database: str, mongo: Mongo
) -> None:
    """Three times as much as can be drained: what waits does so in the database, whoever puts and whoever works."""
    worker = Program("worker", server.uri, database)
    programs = [worker]
    try:
        assert eventually(worker.read, LONG_S)
        producer = Program("producer", server.uri, database)
        programs.append(producer)
        assert eventually(lambda: (lines := producer.read()) and lines[-1]["for_s"] > FLOOD_S, LONG_S + FLOOD_S)
        producer.end()
        programs.remove(producer)
        put, done = producer.lines[-1]["put"], worker.read()[-1]["done"]
        assert put > 2 * done, "it was a flood"
        assert producer.growth_mb() < GROWTH_MB
        flood_s = producer.lines[-1]["for_s"]
        assert eventually(lambda: worker.read()[-1]["done"] >= put, LONG_S + 5 * flood_s)
        assert worker.growth_mb() < GROWTH_MB
        assert eventually(lambda: mongo[database].tasks.count_documents({"task": "work"}) == 0)
    finally:
        for program in programs:
            program.end()


# --- a crowd that fails at once --------------------------------------------------------------------------------------

CROWD: Final = sized(1_000, 10_000)
INSTANT_MS: Final = 50
MOST_AT_ONCE: Final = 0.2
"""The part of the crowd that may come back within one instant; evenly spread over a second it is a twentieth."""


async def test_crowd_that_fails_at_once_comes_back_spread_by_the_default_retry(
    make_app: MakeApp, database: str, mongo: Mongo
) -> None:
    app = make_app()
    runs: Counter[int] = Counter()
    all_through = trio.Event()

    @app.task(queue="q")
    async def fragile(number: int) -> None:
        runs[number] += 1
        if current_task().attempt == 1:
            raise ConnectionError("what it needs is away")
        if runs.total() >= 2 * CROWD:
            all_through.set()

    await trio.to_thread.run_sync(app.blocking.put_many, [fragile.new(number) for number in range(CROWD)])
    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work({"q": 64}, task_status=task_status))
        with trio.fail_after(LONG_S):
            await all_through.wait()
        nursery.cancel_scope.cancel()
    assert set(runs.values()) == {2}
    assert app.blocking.counts() == {"q": {"succeeded": CROWD}}
    back: Counter[int] = Counter()
    for document in mongo[database].tasks.find({"task": "fragile"}):
        waited = document["due_at"] - document["errors"][0]["at"]
        back[round(waited.total_seconds() * 1000) // INSTANT_MS] += 1
    assert max(back) <= 1000 // INSTANT_MS
    assert max(back.values()) < MOST_AT_ONCE * CROWD


# --- all connections lost --------------------------------------------------------------------------------------------

APPS: Final = sized(1, 5)
"""Clients. 200 threads that claim by a single one stand in a row for a lock of the driver's, and never have 200
connections at once: 180 to 193 were seen."""

CLAIMERS: Final = APPS * 40
EACH: Final = 3
WAIT_S: Final = sized(5.0, 30.0)
"""How long a claimer waits: on a busy machine the first of many must still do so when the last begins."""


def test_what_waits_when_all_connections_are_lost_goes_on(server: EmbeddedServer, database: str) -> None:
    """Each claimer waits with a connection of its own: that of its stream."""
    done: Counter[int] = Counter()
    stop = threading.Event()
    with Proxy(server.nodes[0].port) as proxy:
        apps = [StreamQ(proxy.uri, database=database, retry=Retry(max_attempts=50)) for _ in range(APPS)]

        def claim(number: int) -> None:
            queue = apps[number % APPS].blocking.queue("q")
            while not stop.is_set():
                try:
                    task = queue.claim(wait_s=WAIT_S)
                    if task is not None:
                        done[task.payload] += 1
                        task.succeed()
                except (StoreError, LeaseLost):
                    stop.wait(0.05)

        threads = [threading.Thread(target=claim, args=(number,), daemon=True) for number in range(CLAIMERS)]
        plain = StreamQ(server.uri, database=database)
        try:
            for app in apps:
                app.blocking.store()
            for thread in threads:
                thread.start()
            assert eventually(lambda: proxy.open_connections >= CLAIMERS, LONG_S)
            proxy.cut()
            plain.blocking.queue("q").put_many(range(EACH * CLAIMERS))
            assert eventually(lambda: plain.blocking.counts()["q"] == {"succeeded": EACH * CLAIMERS}, LONG_S)
        finally:
            stop.set()
            for thread in threads:
                thread.join(LONG_S)
            for app in (*apps, plain):
                app.close()
    assert done.keys() == set(range(EACH * CLAIMERS))


# --- a long pause ----------------------------------------------------------------------------------------------------

DUE: Final = sized(5_000, 100_000)
URGENT: Final = 20
OTHERS: Final = 20
DELAY_S: Final = 0.3
STARVED: Final = 0.75
"""What comes later than after this part of the rest has waited for it: half is due, and released, before it."""

PAUSE_MB: Final = sized(25.0, 60.0)


async def test_what_became_due_while_all_workers_were_away_is_caught_up_in_order(make_app: MakeApp) -> None:
    """The more urgent come before the rest of what is due, other queues are not kept waiting, memory does not grow with
    what is due."""
    app = make_app()
    order: list[int] = []
    others: list[int] = []
    all_through = trio.Event()

    def note() -> None:
        if len(order) == DUE + URGENT and len(others) == OTHERS:
            all_through.set()

    @app.task(queue="late")
    async def late(priority: int) -> None:
        order.append(priority)
        note()

    @app.task(queue="other")
    async def other() -> None:
        others.append(len(order))
        note()

    def put() -> None:
        plain, urgent = late.options(delay_s=DELAY_S), late.options(delay_s=DELAY_S, priority=9)
        app.blocking.put_many(plain.new(0) for _ in range(DUE // 2))
        app.blocking.put_many([urgent.new(9) for _ in range(URGENT)])
        app.blocking.put_many([other.options(delay_s=DELAY_S).new() for _ in range(OTHERS)])
        app.blocking.put_many(plain.new(0) for _ in range(DUE // 2))

    await trio.to_thread.run_sync(put)
    await trio.sleep(DELAY_S)  # the pause
    before_mb = flooded.rss_mb()
    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work({"late": 8, "other": 2}, task_status=task_status))
        with trio.fail_after(LONG_S):
            await all_through.wait()
        nursery.cancel_scope.cancel()
    assert flooded.rss_mb() - before_mb < PAUSE_MB
    last_urgent = max(place for place, priority in enumerate(order) if priority)
    assert last_urgent < DUE * STARVED, "the urgent waited for the rest"
    assert max(others) < DUE * STARVED, "the other queue waited for this one"
    assert app.blocking.counts() == {"late": {"succeeded": DUE + URGENT}, "other": {"succeeded": OTHERS}}
