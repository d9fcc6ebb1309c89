"""Recurring tasks under a clock that jumps: each slot at its instant, across workers, restarts and switches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
import trio

from streamq import OptionInvalid, StreamQ, UsageError, current_task
from streamq.bridge import InlineBridge
from streamq.errors import AccessRefused, StoreUnavailable
from streamq.store.memory import MemoryStore
from streamq.testing import EPOCH, memory_app, trio_time

SOON_S = 0.1


@asynccontextmanager
async def working(*apps: StreamQ) -> AsyncIterator[None]:
    """Let each app work on all its queues for the body of the block."""
    async with trio.open_nursery() as nursery:
        for app in apps:
            await nursery.start(enter, app)
        yield
        nursery.cancel_scope.cancel()


async def enter(app: StreamQ, *, task_status: trio.TaskStatus[None]) -> None:
    async with app:
        await app.work(task_status=task_status)


def noting(app: StreamQ, **said: Any) -> list[tuple[float, float]]:
    """Declare a recurring handler that notes when it ran and the slot it was for, in seconds since now."""
    ran: list[tuple[float, float]] = []
    begin = trio_time()

    @app.task(**said)
    async def note() -> None:
        slot_at = current_task().slot_at
        slot_s = -1.0 if slot_at is None else (slot_at - begin).total_seconds()
        ran.append((round((trio_time() - begin).total_seconds(), 1), slot_s))

    return ran


def slots(ran: list[tuple[float, float]]) -> list[float]:
    return [slot for _, slot in ran]


# --- slots ----------------------------------------------------------------------------------------------------------


async def test_grid_runs_at_each_slot_and_not_before() -> None:
    app = memory_app()
    ran = noting(app, every_s=60)
    async with working(app):
        await trio.sleep(200)
    assert ran == [(60, 60), (120, 120), (180, 180)]


async def test_cron_runs_at_each_slot_of_its_zone() -> None:
    app = memory_app()
    ran = noting(app, cron="3,5 1 * * *", tz="Europe/Berlin")
    assert trio_time().replace(microsecond=0) == EPOCH
    async with working(app):
        await trio.sleep(400)
    assert ran == [(at, at) for at in (180, 300)]


async def test_workers_together_run_each_slot_once() -> None:
    store = MemoryStore(trio_time)
    apps = [StreamQ.on(store, InlineBridge()) for _ in range(3)]
    ran = [noting(app, every_s=60) for app in apps]
    async with working(*apps):
        await trio.sleep(200)
    assert sorted(slot for one in ran for slot in slots(one)) == pytest.approx([60, 120, 180], abs=SOON_S)


async def test_slot_missed_while_no_worker_was_there_follows_its_rule() -> None:
    store = MemoryStore(trio_time)
    first = StreamQ.on(store, InlineBridge())
    noting(first, every_s=60)
    async with working(first):
        await trio.sleep(30)
    await trio.sleep(200)
    second = StreamQ.on(store, InlineBridge())
    ran = noting(second, every_s=60)
    async with working(second):
        await trio.sleep(1)
    assert len(ran) == 1
    await trio.sleep(1_000)
    assert len(ran) == 1  # nobody works any more


async def test_app_fires_nothing_once_its_worker_has_ended() -> None:
    app = memory_app()
    noting(app, every_s=60)
    async with app:
        async with trio.open_nursery() as nursery:
            await nursery.start(app.work)
            nursery.cancel_scope.cancel()
        await trio.sleep(200)
        assert await app.counts() == {}


async def test_worker_leaves_schedules_it_does_not_declare() -> None:
    store = MemoryStore(trio_time)
    first, second = (StreamQ.on(store, InlineBridge()) for _ in range(2))
    noting(first, every_s=60)
    async with working(first):
        pass

    @second.task
    async def other() -> None: ...

    async with working(second):
        await trio.sleep(200)
    assert store.documents == {}


async def test_overlap_is_noted_where_it_is_not_allowed() -> None:
    app = memory_app()
    slow: list[datetime | None] = []

    @app.task(every_s=60, overlap=False)
    async def report() -> None:
        slow.append(current_task().slot_at)
        await trio.sleep(90)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        await trio.sleep(200)
        assert len(slow) == 2
        (found,) = await app.schedules()
        assert found.skipped == 1
        assert app.journal.counts["slot skipped"] == 1
        nursery.cancel_scope.cancel()


async def test_declaring_waits_out_a_server_that_is_away() -> None:
    store = MemoryStore(trio_time)
    app = StreamQ.on(store, InlineBridge())
    ran = noting(app, every_s=60)
    real, away = store.declare, [StoreUnavailable("away")] * 3

    def declare(*args: Any) -> None:
        if away:
            raise away.pop()
        real(*args)

    store.declare = declare  # type: ignore[method-assign,assignment]
    async with working(app):
        await trio.sleep(100)
    assert len(ran) == 1


async def test_declaring_that_the_server_refuses_ends_the_worker() -> None:
    store = MemoryStore(trio_time)
    app = StreamQ.on(store, InlineBridge())
    noting(app, every_s=60)

    def declare(*args: Any) -> None:
        raise AccessRefused("no")

    store.declare = declare  # type: ignore[method-assign,assignment]
    async with app:
        with pytest.raises(AccessRefused):
            await app.work()


async def test_failing_look_is_repeated() -> None:
    store = MemoryStore(trio_time)
    app = StreamQ.on(store, InlineBridge())
    ran = noting(app, every_s=60)
    real, away = store.fire, [StoreUnavailable("away")] * 3

    def fire(*args: Any) -> Any:
        if trio.current_time() > 59 and away:
            raise away.pop()
        return real(*args)

    store.fire = fire  # type: ignore[method-assign,assignment]
    async with working(app):
        await trio.sleep(100)
    assert slots(ran) == [60]
    assert not away


# --- switching ------------------------------------------------------------------------------------------------------


async def test_disabled_it_rests_in_every_process_until_it_is_enabled() -> None:
    store = MemoryStore(trio_time)
    worker, other = (StreamQ.on(store, InlineBridge()) for _ in range(2))
    ran = noting(worker, every_s=60)
    async with working(worker), other:
        await trio.sleep(70)
        await other.disable_schedule("note")
        (found,) = await other.schedules()
        assert (found.enabled, found.next_at) == (False, None)
        await trio.sleep(300)
        await other.enable_schedule("note")
        await trio.sleep(60)
    assert slots(ran) == [60, 420]


async def test_enabling_elsewhere_is_heard_at_once() -> None:
    """The next backstop look would come too late for the slot."""
    store = MemoryStore(trio_time)
    worker, other = (StreamQ.on(store, InlineBridge()) for _ in range(2))
    ran = noting(worker, every_s=10)
    async with working(worker), other:
        await other.disable_schedule("note")
        await trio.sleep(43)  # looks are at 10, 40 and 70
        await other.enable_schedule("note")
        await trio.sleep(10)
    assert ran == [(50, 50)]


@pytest.mark.parametrize("switch", [StreamQ.enable_schedule, StreamQ.disable_schedule])
async def test_switching_an_unknown_schedule_is_refused(switch: Callable[[StreamQ, Any], Any]) -> None:
    async with memory_app() as app:
        with pytest.raises(UsageError, match="nobody"):
            await switch(app, "nobody")
        with pytest.raises(OptionInvalid, match="name"):
            await switch(app, 5)


async def test_run_now_is_outside_of_the_slots() -> None:
    app = memory_app()

    @app.task(every_s=60)
    async def report(width: int = 3) -> tuple[int, bool]:
        return width, current_task().slot_at is None

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        (before,) = await app.schedules()
        handle = await report.run_now()
        assert await handle.result(timeout_s=1) == (3, True)
        assert await app.schedules() == [before]
        nursery.cancel_scope.cancel()


async def test_run_now_of_what_does_not_recur_is_refused() -> None:
    app = memory_app()

    @app.task
    async def report() -> None: ...

    async with app:
        with pytest.raises(UsageError, match="report does not recur"):
            await report.run_now()


# --- declaring ------------------------------------------------------------------------------------------------------


def test_recurring_handler_that_needs_arguments_is_refused_by_name() -> None:
    app = StreamQ("mongodb://unused")
    with pytest.raises(UsageError, match="report: parameter path needs a default"):

        @app.task(every_s=5)
        async def report(width: int = 1, *, path: str) -> None: ...

    assert "report" not in app.handlers


def test_recurrence_that_cannot_be_is_refused_before_anything_is_declared() -> None:
    app = StreamQ("mongodb://unused")
    with pytest.raises(OptionInvalid, match="cron="):
        app.task(cron="whenever")
