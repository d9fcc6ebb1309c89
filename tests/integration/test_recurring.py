"""Recurring tasks on the real server: on time, through a kill, and switched from elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from pymongo import MongoClient

import streamq
from streamq import Handler, StreamQ, UsageError, current_task
from streamq.cli import main
from streamq.core.search import Search
from streamq.drafting import schedules_of

if TYPE_CHECKING:
    from tests.integration.conftest import MakeApp

SOURCE = str(Path(streamq.__file__).parents[1])

KILLED = """
import os, signal, sys
import trio
from pymongo.collection import Collection
from streamq import StreamQ

app = StreamQ(os.environ["STREAMQ_URI"], database=sys.argv[1])
real = getattr(Collection, sys.argv[2])

@app.task(every_s=3600)
async def report() -> None: ...

def die(self, *args, **more):
    if more.get("session") is None:
        return real(self, *args, **more)
    if sys.argv[3] == "after":
        real(self, *args, **more)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(Collection, sys.argv[2], die)

async def main():
    async with app:
        await app.work()

trio.run(main)
"""


def reporting(app: StreamQ) -> Handler[[], None, Any]:
    """Declare a recurring handler."""

    @app.task(every_s=3600)
    async def report() -> None: ...

    return report


@asynccontextmanager
async def working(app: StreamQ) -> AsyncIterator[None]:
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        yield
        nursery.cancel_scope.cancel()


def make_due(mongo: MongoClient[dict[str, Any]], database: str, in_s: float) -> datetime:
    """Let the next slot come in a moment, by the server's clock; return it. The row must be there."""
    slot = {"$add": ["$$NOW", round(in_s * 1000)]}
    mongo[database]["tasks.meta"].update_one(
        {"_id": "schedule:report"}, [{"$set": {"next_at": slot, "anchor_at": slot}}]
    )
    found = mongo[database]["tasks.meta"].find_one({"_id": "schedule:report"})
    assert found is not None
    next_at: datetime = found["next_at"]
    return next_at


async def test_slot_runs_at_its_instant(make_app: MakeApp, mongo: MongoClient[dict[str, Any]], database: str) -> None:
    reporting(first := make_app())
    async with working(first):
        pass
    slot = make_due(mongo, database, 0.2)
    app = make_app()
    ran: list[tuple[datetime | None, datetime]] = []
    done = trio.Event()

    @app.task(every_s=3600)
    async def report() -> None:
        ran.append((current_task().slot_at, app.store.now()))
        done.set()

    async with working(app):
        with trio.fail_after(10):
            await done.wait()
    ((slot_at, at),) = ran
    assert slot_at == slot
    assert timedelta(0) <= at - slot < timedelta(seconds=0.5)


async def test_enabling_from_a_program_without_trio_is_heard_through_the_stream(
    make_app: MakeApp, mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    app, other = make_app(), make_app()
    reporting(app)
    async with working(app):
        await trio.to_thread.run_sync(other.blocking.disable_schedule, "report")
        looked, fire = trio.Event(), app.store.fire
        token = trio.lowlevel.current_trio_token()

        def look(*args: Any) -> Any:
            firing = fire(*args)
            if firing.next_s is not None:
                token.run_sync_soon(looked.set)
            return firing

        app.store.fire = look  # type: ignore[method-assign,assignment]
        await trio.to_thread.run_sync(other.blocking.enable_schedule, "report")
        with trio.fail_after(5):
            await looked.wait()


@pytest.mark.parametrize(("method", "when"), [("insert_many", "after"), ("update_one", "before")])
def test_scheduler_killed_between_its_writes_loses_no_slot(
    make_app: MakeApp, mongo: MongoClient[dict[str, Any]], database: str, uri: str, method: str, when: str
) -> None:
    app = make_app()
    app.blocking.store()
    reporting(app)
    schedules = schedules_of(app.handlers.values())
    app.store.declare(schedules, "w")
    slot = make_due(mongo, database, 0)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, database, method, when],
        env={**os.environ, "PYTHONPATH": SOURCE, "STREAMQ_URI": uri},
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert app.store.find(Search(), limit=5) == []
    assert len(app.store.fire(schedules, "w").fired) == 1
    assert [one["slot_at"] for one in app.store.find(Search(), limit=5)] == [slot]
    mongo.admin.command("killAllSessions", [])  # what the dead one left open, or dropping the database waits a minute


def test_program_without_trio_lists_switches_and_runs_now(make_app: MakeApp) -> None:
    app = make_app()
    report = reporting(app)
    with pytest.raises(UsageError, match="report"):
        app.blocking.disable_schedule("report")
    assert app.blocking.schedules() == []
    assert app.blocking.run_now(report).created
    task = app.blocking.queue("default").claim()
    assert task is not None
    assert (task.info.task, task.info.slot_at) == ("report", None)


async def test_command_line_lists_and_switches(
    make_app: MakeApp, uri: str, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--uri", uri, "--database", database]
    assert main(["schedules", *place]) == 0
    assert capsys.readouterr().out == "no schedules\n"
    app = make_app()
    reporting(app)
    async with working(app):
        pass
    assert main(["schedules", *place]) == 0
    assert "every 3600000 ms" in capsys.readouterr().out
    assert main(["schedules", "--disable", "report", "--json", *place]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["enabled"], shown["next_at"]) == ("report", False, None)
    assert main(["schedules", "--disable", "report", *place]) == 0
    assert "disabled" in capsys.readouterr().out
    assert main(["schedules", "--enable", "report", "--json", *place]) == 0
    assert json.loads(capsys.readouterr().out)["enabled"] is True
    assert main(["schedules", "--enable", "nobody", *place]) == 2
    assert "nobody" in capsys.readouterr().err
