"""How attempts end and what is kept of them, on a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio

from streamq import CancelTask, OptionInvalid, Rate, Retry, RetryAfter, StreamQ, TaskFailed, current_task
from streamq.asyncio import Door
from tests.integration.conftest import MakeApp


@asynccontextmanager
async def working(app: StreamQ) -> AsyncIterator[None]:
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        with trio.fail_after(15):
            yield
        nursery.cancel_scope.cancel()


async def test_async_handler_past_its_timeout_is_cancelled_and_the_attempt_fails(make_app: MakeApp) -> None:
    app = make_app(retry=Retry(max_attempts=1))
    cancelled: list[bool] = []

    @app.task(timeout_s=0.1)
    async def long() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(True)

    async with working(app):
        with pytest.raises(TaskFailed) as caught:
            await (await long.put()).result()
    assert (caught.value.error_type, cancelled) == ("TaskTimeout", [True])


async def test_handlers_signals_and_its_rule_decide_what_becomes_of_the_attempt(make_app: MakeApp) -> None:
    app = make_app(retry=Retry(max_attempts=9, first_s=1_000, jitter=False))

    @app.task
    async def busy() -> int:
        if current_task().attempt == 1:
            raise RetryAfter(0.05)
        return current_task().attempt

    @app.task
    async def needless() -> None:
        raise CancelTask("no more")

    @app.task(retry=Retry.constant(0, max_attempts=9, never=LookupError))
    async def lost() -> None:
        raise KeyError if current_task().attempt == 2 else ValueError

    async with working(app):
        assert await (await busy.put()).result() == 2
        with pytest.raises(TaskFailed) as ended:
            await (await needless.put()).result()
        assert ended.value.status == "cancelled"
        with pytest.raises(TaskFailed) as failed:
            await (await lost.put()).result()
        assert failed.value.error_type == "KeyError"


async def test_what_a_rule_does_not_name_is_final_at_once(make_app: MakeApp) -> None:
    app = make_app(retry=Retry.constant(0, max_attempts=3, only=ConnectionError))

    @app.task
    async def broken(kind: str) -> None:
        raise ConnectionResetError if kind == "line" else ValueError

    async with working(app):
        tried, final = await broken.put("line"), await broken.put("bug")
        await tried.wait()
        await final.wait()
    assert app.blocking.desk.show(tried.id).attempt == 3
    assert app.blocking.desk.show(final.id).attempt == 1


def test_without_trio_what_a_rule_does_not_name_is_final_at_once(make_app: MakeApp) -> None:
    app = make_app(retry=Retry.constant(0, max_attempts=3, only=ConnectionError))
    queue = app.blocking.queue("q")
    queue.put_many(["bug", "line"])
    attempts: list[tuple[str, int]] = []
    for task in queue.consume(wait_s=0):
        with task:
            attempts.append((task.payload, task.info.attempt))
            raise ConnectionResetError if task.payload == "line" else ValueError
    assert attempts == [("bug", 1), ("line", 1), ("line", 2), ("line", 3)]
    assert app.store.counts() == {"q": {"failed": 2}}


async def test_late_result_of_a_thread_past_its_timeout_is_refused(make_app: MakeApp) -> None:
    app = make_app(retry=Retry.constant(0, max_attempts=2))
    go, late = threading.Event(), threading.Event()

    @app.task(timeout_s=0.2)
    def slow() -> str:
        if current_task().attempt == 2:
            return "second"
        go.wait(timeout=30)
        late.set()
        return "first"

    try:
        async with working(app):
            handle = await slow.put()
            assert await handle.result() == "second"
            go.set()
            await trio.to_thread.run_sync(late.wait, 10)
            assert app.journal.counts["thread left behind"] == 1
        assert app.blocking.result(handle.id) == "second"
    finally:
        go.set()


async def test_each_attempts_error_is_kept_with_its_worker_and_time(make_app: MakeApp) -> None:
    app = make_app(retry=Retry.constant(0, max_attempts=12), worker_id="mill-3")

    @app.task
    async def broken() -> None:
        raise ValueError(f"try {current_task().attempt}")

    began_at = datetime.now(UTC) - timedelta(seconds=5)
    async with working(app):
        handle = await broken.put()
        await handle.wait()
    errors = app.blocking.desk.show(handle.id).errors
    assert [(one.attempt, one.message) for one in errors] == [(n, f"try {n}") for n in range(3, 13)]
    assert {(one.type, one.worker) for one in errors} == {("ValueError", "mill-3")}
    assert all("raise ValueError" in one.traceback and one.at is not None and one.at > began_at for one in errors)


def test_what_has_ended_is_kept_for_a_day_or_a_week_unless_said_otherwise(make_app: MakeApp, database: str) -> None:
    app = make_app()
    queue = app.blocking.queue("q")
    acts: list[Callable[[Any], object]] = [
        lambda task: task.succeed(1),
        lambda task: task.fail("no", retry=False),
        lambda task: task.cancel("why"),
    ]
    for act in acts:
        queue.put(1)
        act(queue.claim())
    kept = {
        one["status"]: one["remove_at"] - one["finished_at"] for one in app.client[database].tasks.find({"queue": "q"})
    }
    week = timedelta(days=7)
    assert kept == {"succeeded": timedelta(days=1), "failed": week, "cancelled": week}
    gone = queue.put(2, keep_s=0)
    task = queue.claim()
    assert task is not None
    task.succeed("nobody reads this")
    assert app.store.get(gone.id) is None


def test_blocking_claim_keeps_to_the_limits_and_an_empty_one_costs_no_token(make_app: MakeApp) -> None:
    app = make_app()
    app.limit("rated", rate=Rate(2, per_s=36_000))
    app.limit("narrow", running=1)
    rated, narrow = app.blocking.queue("rated"), app.blocking.queue("narrow")
    for _ in range(3):
        assert rated.claim() is None
    rated.put_many(range(4))
    assert [task.payload for task in rated.claim_many(4)] == [0, 1]
    assert rated.claim() is None
    narrow.put_many(range(2))
    first = narrow.claim()
    assert first is not None
    assert narrow.claim() is None
    first.succeed()
    second = narrow.claim()
    assert second is not None
    assert second.payload == 1
    assert app.store.counts()["rated"] == {"running": 2, "ready": 2}


def test_blocking_claim_keeps_to_the_limit_of_each_key(make_app: MakeApp) -> None:
    app = make_app()
    app.limit("q", key_running=1)
    queue = app.blocking.queue("q")
    for payload, key in enumerate(["a", "a", "b"]):
        queue.put(payload, rate_key=key)
    held = queue.claim_many(3)
    assert [task.payload for task in held] == [0, 2]
    assert queue.claim() is None
    held[0].succeed()
    freed = queue.claim()
    assert freed is not None
    assert freed.payload == 1


NAIVE = datetime(2030, 1, 1)


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("priority", {"priority": "high"}),
        ("priority", {"priority": 1.5}),
        ("priority", {"priority": True}),
        ("at", {"at": NAIVE}),
        ("at", {"at": NAIVE.replace(tzinfo=UTC), "delay_s": 5}),
        ("delay_s", {"delay_s": -1}),
    ],
)
async def test_bad_priority_or_time_is_refused_at_every_put_and_nothing_stored(
    make_app: MakeApp, option: str, given: dict[str, Any]
) -> None:
    app = make_app()

    @app.task(queue="q")
    async def job() -> None: ...

    queue, blocking = app.queue("q"), app.blocking.queue("q")
    async with app:
        puts: tuple[Callable[[], object], ...] = (
            lambda: job.options(**given),
            lambda: queue.new(1, **given),
            lambda: blocking.put(1, **given),
            lambda: blocking.put_many([1, 2], **given),
            lambda: app.blocking.handler(job).options(**given),
            lambda: asyncio.run(Door(app).queue("q").put(1, **given)),
            lambda: asyncio.run(Door(app).queue("q").put_many([1, 2], **given)),
        )
        for put in puts:
            with pytest.raises(OptionInvalid, match=option):
                await trio.to_thread.run_sync(put)
        with pytest.raises(OptionInvalid, match=option):
            await queue.put(1, **given)
        with pytest.raises(OptionInvalid, match=option):
            await queue.put_many([1, 2], **given)
    assert app.store.counts() == {}


def test_failing_block_does_not_end_a_blocking_loop(make_app: MakeApp) -> None:
    app = make_app(retry=Retry(max_attempts=1))
    queue = app.blocking.queue("q")
    queue.put_many(range(3))
    seen: list[int] = []
    for task in queue.consume(wait_s=0):
        with task:
            seen.append(task.payload)
            if task.payload == 1:
                raise ValueError("one is bad")
    assert seen == [0, 1, 2]
    assert app.store.counts() == {"q": {"succeeded": 2, "failed": 1}}
