"""Progress: the newest word is written, never too often, and the last one with the task's end at the latest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

import streamq
from streamq import LeaseLost, OptionInvalid, Progress, Retry, StoreError, StoreUnavailable, StreamQ, UsageError
from streamq.bridge import InlineBridge
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time
from tests.runtime.test_leases import stored, take_over, working

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class CountingBridge(InlineBridge):
    """Counts calls by name; those of `report` may fail."""

    def __init__(self) -> None:
        self.reports = 0
        self.failing: StoreError | None = None

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if getattr(function, "__name__", "") == "report":
            self.reports += 1
            if self.failing is not None:
                raise self.failing
        return await super().call(function, *args)


def counting_app(**options: Any) -> tuple[StreamQ, CountingBridge]:
    bridge = CountingBridge()
    return StreamQ.on(MemoryStore(trio_time), bridge, **options), bridge


async def test_handler_says_how_far_it_is_and_who_asks_reads_it() -> None:
    app = memory_app()

    @app.task
    async def long() -> None:
        await streamq.progress(0.25, "one of four")
        await trio.sleep(10)
        await streamq.progress(1)

    async with working(app):
        handle = await long.put()
        await trio.testing.wait_all_tasks_blocked()
        said_at = trio_time()
        assert await handle.progress() == Progress(0.25, "one of four", said_at)
        await handle.wait()
        progress = await handle.progress()
        assert progress is not None
        assert (progress.value, progress.note) == (1, "")
        assert await (await app.queue("other").put(1)).progress() is None


async def test_tight_loop_is_written_a_few_times_and_its_last_word_with_the_end() -> None:
    app, bridge = counting_app()

    @app.task
    async def busy() -> None:
        for number in range(10_000):
            await streamq.progress(number)

    async with working(app):
        handle = await busy.put()
        await handle.wait()
        assert bridge.reports == 1
        assert stored(app, handle)["progress"]["value"] == 9_999


async def test_word_after_a_word_is_written_within_the_pause() -> None:
    app, bridge = counting_app()

    @app.task
    async def long() -> None:
        await streamq.progress(1)
        await streamq.progress(2)
        await streamq.progress(3)
        await trio.sleep(100)

    async with working(app):
        handle = await long.put()
        await trio.sleep(0.06)
        assert stored(app, handle)["progress"]["value"] == 3
        assert bridge.reports == 2
        await trio.sleep(50)
        assert bridge.reports == 2  # nothing new, nothing written


@pytest.mark.parametrize("says", [None, ValueError("x")])
async def test_last_word_is_stored_whatever_the_end(says: Exception | None) -> None:
    app = memory_app(retry=Retry(first_s=500))

    @app.task
    async def short() -> None:
        await streamq.progress(1)
        await streamq.progress(2, "$value")
        if says is not None:
            raise says

    async with working(app):
        handle = await short.put()
        await trio.testing.wait_all_tasks_blocked()
        assert stored(app, handle)["status"] == ("delayed" if says else "succeeded")
        assert stored(app, handle)["progress"]["note"] == "$value"


async def test_report_renews_the_lease() -> None:
    app = memory_app(lease_s=30)
    async with app, app.queue("q").consume() as tasks:
        handle = await app.queue("q").put(1)
        task = await anext(tasks)
        await trio.sleep(5)
        await task.progress(1)
        left = stored(app, handle)["lease_until"] - trio_time()
        assert left.total_seconds() == 30


async def test_stale_holder_is_told_and_changes_nothing() -> None:
    app = memory_app()
    async with app, app.queue("q").consume() as tasks:
        handle = await app.queue("q").put(1)
        task = await anext(tasks)
        take_over(stored(app, handle))
        with pytest.raises(LeaseLost, match="progress"):
            await task.progress(1)
        with pytest.raises(LeaseLost, match="progress"):
            await task.progress(2)
        assert "progress" not in stored(app, handle)


async def test_server_that_is_away_fails_no_handler_and_is_told_later() -> None:
    app, bridge = counting_app()

    @app.task
    async def long() -> None:
        bridge.failing = StoreUnavailable("away")
        await streamq.progress(1)
        bridge.failing = None
        await trio.sleep(100)

    async with working(app):
        handle = await long.put()
        await trio.sleep(1)
        assert stored(app, handle)["progress"]["value"] == 1
        assert bridge.reports == 2


async def test_report_that_the_server_refuses_is_given_up() -> None:
    app, bridge = counting_app()

    @app.task
    async def long() -> str:
        bridge.failing = StoreError("no room")
        await streamq.progress(1)
        await trio.sleep(10)
        return "done"

    async with working(app):
        assert await (await long.put()).result() == "done"
        assert bridge.reports == 1


async def test_word_of_a_cancelled_caller_is_written() -> None:
    app = memory_app()

    @app.task
    async def long() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await streamq.progress(1)
        with trio.CancelScope() as scope:
            trio.lowlevel.current_trio_token().run_sync_soon(scope.cancel)
            await streamq.progress(2)
        await trio.sleep(10)

    async with working(app):
        handle = await long.put()
        await trio.sleep(1)
        assert stored(app, handle)["progress"]["value"] == 2


@pytest.mark.parametrize(
    ("value", "note", "named"),
    [
        ("1", "", "value"),
        (True, "", "value"),
        (float("nan"), "", "value"),
        (float("inf"), "", "value"),
        (2**63, "", "value"),
        (1, 1, "note"),
        (1, "x" * 1_001, "note"),
        (1, "\ud800", "note"),
    ],
)
async def test_what_cannot_be_stored_is_refused_by_name(value: Any, note: Any, named: str) -> None:
    app = memory_app()
    async with app, app.queue("q").consume() as tasks:
        handle = await app.queue("q").put(1)
        async with await anext(tasks) as task:
            with pytest.raises(OptionInvalid, match=f"{named}="):
                await task.progress(value, note)
        assert "progress" not in stored(app, handle)


async def test_outside_of_a_handler_there_is_nothing_to_report_on() -> None:
    with pytest.raises(UsageError, match=r"progress\(\) was called outside of a handler"):
        await streamq.progress(1)
    with pytest.raises(UsageError, match="outside of a handler"):
        streamq.progress_in_thread(1)


async def test_settled_task_is_reported_on_no_more() -> None:
    app = memory_app()
    async with app, app.queue("q").consume() as tasks:
        await app.queue("q").put(1)
        task = await anext(tasks)
        await task.succeed()
        with pytest.raises(LeaseLost, match="progress"):
            await task.progress(1)


@pytest.mark.parametrize("delay_s", [0, 5])
async def test_released_task_waits_as_told_and_its_attempt_is_not_counted(delay_s: float) -> None:
    app = memory_app()
    async with app, app.queue("q").consume(prefetch=0) as tasks:
        handle = await app.queue("q").put(1)
        task = await anext(tasks)
        with pytest.raises(OptionInvalid, match="delay_s"):
            await task.release(-1)
        await task.release(delay_s)
        assert stored(app, handle)["status"] == ("delayed" if delay_s else "ready")
        began_at = trio.current_time()
        again = await anext(tasks)
        assert trio.current_time() - began_at == pytest.approx(delay_s, abs=0.1)
        assert again.info.attempt == 1
