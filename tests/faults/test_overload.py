"""More than can be done: a flood of puts, a crowd that fails at once, all connections lost, a pause with much that is
due."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any, Final

import msgspec
import trio

from streamq import LeaseLost, Retry, StoreError, StreamQ, current_task
from streamq.embedded import EmbeddedServer
from tests.chaos.actor import ROOT
from tests.faults.away import DUE, Away
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
"""What memory may grow by when warm: in the long form, less than the backlog's payloads alone would take."""

HELD: Final = 0.3
"""The part of the backlog that the worker may hold: what its slots run, and for the next claims."""


class Program:
    """A process, and what it has said."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self._unread = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.faults.{module}", *arguments],
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
            assert chunk, "a program has ended"
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
    worker = Program("flooded", "worker", server.uri, database)
    programs = [worker]
    try:
        assert eventually(worker.read, LONG_S)
        producer = Program("flooded", "producer", server.uri, database)
        programs.append(producer)
        helds: list[int] = []

        def is_over() -> bool:
            helds.append(mongo[database].tasks.count_documents({"status": "running"}))
            return bool(lines := producer.read()) and lines[-1]["for_s"] > FLOOD_S

        assert eventually(is_over, LONG_S + FLOOD_S)
        producer.end()
        programs.remove(producer)
        put, done = producer.lines[-1]["put"], worker.read()[-1]["done"]
        assert put > 2 * done, "it was a flood"
        assert max(helds) < HELD * (put - done), "the worker takes what it cannot run"
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


AWAY_S: Final = 2.0
"""How long no new connection is had."""

LOOKS: Final = 12
"""Connections that a client may try meanwhile, however many threads wait with it: its monitor looks twice a second.
Five were seen."""

AGAIN: Final = 2
"""Connections that a claimer may take to wait again. One was seen."""

ASKED: Final = 15
"""Commands a claimer until all wait again: it opens a stream, says that it is there, looks. Eight were seen."""


def test_what_waits_when_all_connections_are_lost_goes_on(server: EmbeddedServer, database: str, mongo: Mongo) -> None:
    """Each claimer waits with a connection of its own: that of its stream. While no new one is had nobody tries often,
    and after that everybody comes back once."""
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
            before = proxy.accepted
            proxy.refuse()
            proxy.cut()
            time.sleep(AWAY_S)
            tried = proxy.accepted - before
            proxy.refuse(False)
            asked = commands(mongo)
            assert eventually(lambda: proxy.open_connections >= CLAIMERS, LONG_S)
            asked, came = commands(mongo) - asked, proxy.accepted - before - tried
            plain.blocking.queue("q").put_many(range(EACH * CLAIMERS))
            assert eventually(lambda: plain.blocking.counts()["q"] == {"succeeded": EACH * CLAIMERS}, LONG_S)
        finally:
            stop.set()
            for thread in threads:
                thread.join(LONG_S)
            for app in (*apps, plain):
                app.close()
    print(f"{CLAIMERS} claimers: {tried} connections tried in {AWAY_S} s, then {came}, and {asked} commands")
    assert done.keys() == set(range(EACH * CLAIMERS))
    assert tried <= LOOKS * APPS, "while no connection was to be had"
    assert came <= AGAIN * CLAIMERS
    assert asked <= ASKED * CLAIMERS


def commands(mongo: Mongo) -> int:
    """Say how many commands the server has had, besides reads of streams that are open."""
    counts = mongo.admin.command("serverStatus")["opcounters"]
    return int(sum(counts.values()) - counts["getmore"])


# --- a long pause ----------------------------------------------------------------------------------------------------

PAUSE_S: Final = sized(2.0, 600.0)
"""How long no worker is there, at least."""

BACK: Final = 2
"""Workers that come back."""

STARVED: Final = 0.6
"""What comes later than after this part of the rest has waited for it: three quarters are due before."""

PESSIMISTIC: Final = [("started_at", 1), ("priority", 1), ("queue", 1)]
"""The order in which they were begun. What one claim brought has one instant: the urgent and the others last of it."""

PAUSE_MB: Final = sized(15.0, 25.0)
"""What a worker's memory may grow by, from before it has connected."""


def test_what_became_due_while_all_workers_were_away_is_caught_up_in_order(
    server: EmbeddedServer, database: str, mongo: Mongo
) -> None:
    """The worker that was there is killed, with a task in its hands. Those that come back run each task once, the more
    urgent before the rest of what is due; other queues are not kept waiting, memory does not grow with what is due."""
    plan = Away(server.uri, database)
    tasks = mongo[database].tasks
    workers = [Program("away", "first", server.uri, database)]
    try:
        plan.app.blocking.put_many([plan.late.new(), plan.held.new()])
        assert eventually(lambda: workers[0].read() and workers[0].lines[-1]["ran"] == 1, LONG_S)
        assert eventually(lambda: tasks.count_documents({"task": "held", "status": "running"}) == 1, LONG_S)
        handles = plan.app.blocking.put_many(plan.due())
        workers.pop().end()
        assert tasks.count_documents({"status": "delayed"}) == len(handles), "none was due before the worker went"
        overdue = {"status": "delayed", "$expr": {"$lte": ["$due_at", "$$NOW"]}}
        time.sleep(PAUSE_S)
        assert eventually(lambda: tasks.count_documents(overdue) == len(handles), LONG_S)
        back_at = time.monotonic()
        workers += [Program("away", "back", server.uri, database) for _ in range(BACK)]
        assert eventually(lambda: sum(ran(worker) for worker in workers) >= len(handles), LONG_S)
        took_s = time.monotonic() - back_at
        assert eventually(lambda: tasks.count_documents({"status": "succeeded"}) == len(handles) + 2, LONG_S)
        assert sum(ran(worker) for worker in workers) == len(handles)
    finally:
        for worker in workers:
            worker.end()
        plan.app.close()
    growth_mb = [worker.lines[-1]["rss_mb"] - worker.lines[0]["rss_mb"] for worker in workers]
    assert max(growth_mb) < PAUSE_MB
    assert tasks.count_documents({"task": {"$ne": "held"}, "attempt": 1}) == len(handles) + 1
    assert tasks.count_documents({"task": "held", "attempt": {"$gt": 1}}) == 1, "it was begun again"
    was_due = {"task": {"$ne": "held"}, "due_at": {"$exists": True}}
    begun = list(tasks.find(was_due, {"task": 1, "priority": 1}).sort(PESSIMISTIC))
    last_urgent = max(place for place, one in enumerate(begun) if one["priority"])
    last_other = max(place for place, one in enumerate(begun) if one["task"] == "other")
    print(f"caught up in {took_s:.1f} s, grew by {growth_mb} MB, places {last_urgent} and {last_other} of {len(begun)}")
    assert last_urgent < DUE * STARVED, "the urgent waited for the rest"
    assert last_other < DUE * STARVED, "the other queue waited for this one"


def ran(worker: Program) -> int:
    """Say how many tasks it has run."""
    return int(worker.read()[-1]["ran"]) if worker.read() else 0
