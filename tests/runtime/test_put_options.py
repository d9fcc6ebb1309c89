"""What a put can say of its task, seen by handlers and holders."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import trio

from streamq import (
    Handle,
    OptionInvalid,
    Priority,
    Retry,
    Snooze,
    StreamQ,
    TaskFailed,
    TaskGone,
    TaskInfo,
    current_task,
)
from streamq.bridge import InlineBridge
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time
from tests.runtime.test_leases import working


def stored(app: StreamQ, handle: Handle[Any]) -> Any:
    return cast(MemoryStore, app.store).documents[handle.id]


# --- tag, priority, retention, the worker's own name ---------------------------------------------------------------


async def test_a_handler_sees_its_tag_and_a_named_priority_as_a_number() -> None:
    app = memory_app()
    seen: list[TaskInfo] = []

    @app.task
    async def job() -> None:
        seen.append(current_task())

    async with working(app):
        handle = await job.options(tag="nightly", priority=Priority.LOW).put()
        await handle.result(timeout_s=5)
        assert (seen[0].tag, seen[0].priority) == ("nightly", -100)
        assert type(stored(app, handle)["priority"]) is int


@pytest.mark.parametrize(
    ("of_app", "of_handler", "of_put", "expected"),
    [(None, None, None, None), (9, None, None, 9), (9, 8, None, 8), (9, 8, 0, 0)],
)
async def test_the_nearest_word_on_retention_counts(
    of_app: float | None, of_handler: float | None, of_put: float | None, expected: float | None
) -> None:
    app = memory_app(keep_failed_s=of_app)

    @app.task(keep_failed_s=of_handler)
    async def job() -> None: ...

    async with app:
        handle = await job.options(keep_failed_s=of_put).put()
        assert stored(app, handle).get("keep_failed_s") == expected
        if of_handler is None:
            bare = await app.queue("q").put(1, keep_failed_s=of_put)
            assert stored(app, bare).get("keep_failed_s") == expected


async def test_a_worker_is_called_on_its_tasks_as_it_was_named() -> None:
    app = memory_app(worker_id="$mill 3")

    @app.task(queue="a")
    async def job() -> None:
        raise ValueError

    async with working(app):
        handle = await job.options(max_attempts=1).put()
        with pytest.raises(TaskFailed):
            await handle.result(timeout_s=5)
        document = stored(app, handle)
        assert (document["worker"], document["errors"][0]["worker"]) == ("$mill 3", "$mill 3")
        async with app.queue("b").consume() as tasks:
            bare = await app.queue("b").put(1)
            task = await tasks.__anext__()
            assert stored(app, bare)["worker"] == "$mill 3"
            await task.succeed()
        assert "member:$mill 3" not in cast(MemoryStore, app.store).members


async def test_two_processes_of_one_name_are_two_members() -> None:
    store = MemoryStore(trio_time)

    async def one() -> None:
        app = StreamQ.on(store, InlineBridge(), worker_id="mill")

        @app.task
        async def job() -> None: ...

        async with working(app):
            await trio.sleep(1)
            assert len(store.members) == 2

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(one)


@pytest.mark.parametrize(
    ("name", "value"),
    [("worker_id", ""), ("worker_id", 5), ("worker_id", "a\0"), ("worker_id", "x" * 201), ("keep_failed_s", -1)],
)
def test_an_app_refuses_what_cannot_be_stored_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(OptionInvalid, match=name):
        memory_app(**{name: value})


# --- expiry and lifetime -------------------------------------------------------------------------------------------


async def test_waiting_for_a_task_that_expires_ends_at_the_instant() -> None:
    app = memory_app()
    ran: list[int] = []

    @app.task(queue="a")
    async def busy() -> None:
        await trio.sleep(1_000)

    @app.task(queue="a", expires_in_s=60)
    async def job() -> None:
        ran.append(1)

    async with working(app, slots=1):
        await busy.put()
        handle = await job.put()
        with pytest.raises(TaskFailed) as caught:
            await handle.result()
        assert caught.value.status == "expired"
        assert trio.current_time() == pytest.approx(60, abs=0.5)
        await trio.sleep(2_000)
        assert ran == []


async def test_an_expiry_of_a_queue_nobody_works_on_is_seen_to_by_any_worker() -> None:
    app = memory_app()

    @app.task(queue="a")
    async def job() -> None: ...

    async with working(app):
        await trio.sleep(100)
        handle = await app.queue("b").put(1, expires_in_s=5)
        await trio.sleep(5.5)  # not by `result`: that reopens the stream, which makes the scheduler look
        assert stored(app, handle)["status"] == "expired"


@pytest.mark.parametrize(
    ("of_app", "of_put", "expected"), [(None, None, None), (9, None, 9), (9, 5, 5), (9, math.inf, None)]
)
async def test_the_nearest_word_on_the_expiry_of_a_bare_task_counts(
    of_app: float | None, of_put: float | None, expected: float | None
) -> None:
    app = memory_app(expires_in_s=of_app)
    async with app:
        document = stored(app, await app.queue("q").put(1, expires_in_s=of_put))
        expiry = document.get("expires_at")
        assert (None if expiry is None else (expiry - document["created_at"]).total_seconds()) == expected


@pytest.mark.parametrize("state", ["running", "ready"])
async def test_waiting_for_a_task_that_outlives_its_time_ends_at_the_instant(state: str) -> None:
    app = memory_app()
    ended: list[float] = []

    @app.task(queue="a")
    async def job() -> None:
        try:
            await trio.sleep(1_000)
        finally:
            ended.append(trio.current_time())

    async with working(app, slots=1):
        if state == "ready":
            await job.put()
        handle = await job.options(lifetime_s=62).put()
        with pytest.raises(TaskGone):
            await handle.result()
        assert trio.current_time() == pytest.approx(62, abs=0.5)
        await trio.sleep(20)
        assert (len(ended) == 1) == (state == "running")  # its holder heard of it at the next beat
        assert handle.id not in cast(MemoryStore, app.store).documents


@pytest.mark.parametrize(("name", "value"), [("expires_in_s", 0), ("expires_in_s", "5")])
def test_an_app_and_a_handler_refuse_an_expiry_that_is_none(name: str, value: Any) -> None:
    with pytest.raises(OptionInvalid, match=name):
        memory_app(**{name: value})
    app = memory_app()
    with pytest.raises(OptionInvalid, match=name):
        app.task(**{name: value})(len)


# --- total time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_s", [None, 1_000.0])
async def test_a_handler_is_cancelled_when_the_total_time_is_over_and_is_not_tried_again(
    timeout_s: float | None,
) -> None:
    app = memory_app(retry=Retry(max_attempts=9, first_s=10, factor=1, jitter=False))
    began: list[float] = []

    @app.task(timeout_s=timeout_s, total_timeout_s=60)
    async def job() -> None:
        began.append(trio.current_time())
        if len(began) < 3:
            raise ValueError
        await trio.sleep(1_000)

    async with working(app):
        handle = await job.put()
        with pytest.raises(TaskFailed, match="TaskTimeout"):
            await handle.result()
        assert trio.current_time() == pytest.approx(60, abs=0.5)
        await trio.sleep(1_000)
        assert began == pytest.approx([0, 10, 20], abs=0.5)


async def test_a_retry_that_would_come_after_the_total_time_is_not_made() -> None:
    app = memory_app(retry=Retry(max_attempts=9, first_s=100, factor=1, jitter=False))

    @app.task(total_timeout_s=60)
    async def job() -> None:
        raise ValueError

    async with working(app):
        handle = await job.put()
        with pytest.raises(TaskFailed, match="ValueError"):
            await handle.result()
        assert trio.current_time() < 1


async def test_a_snooze_past_the_total_time_fails_the_task() -> None:
    app = memory_app()

    @app.task
    async def snoozing() -> None:
        raise Snooze(40)

    async with working(app):
        handle = await snoozing.options(total_timeout_s=60).put()
        with pytest.raises(TaskFailed, match="TaskTimeout"):
            await handle.result()
        assert trio.current_time() == pytest.approx(40, abs=0.5)  # a second snooze would end after the total time


async def test_a_bare_tasks_body_is_cancelled_when_the_total_time_is_over() -> None:
    app = memory_app()
    async with app:
        handle = await app.queue("q").put(1, total_timeout_s=60)
        async with app.queue("q").consume() as tasks:
            task = await tasks.__anext__()
            async with task:
                await trio.sleep(1_000)
            assert trio.current_time() == pytest.approx(60, abs=0.5)
        with pytest.raises(TaskFailed, match="TaskTimeout"):
            await handle.result()


async def test_a_task_that_waited_past_its_total_time_is_not_started() -> None:
    app = memory_app(lease_s=10)
    began: list[float] = []

    @app.task(total_timeout_s=60)
    async def job() -> None:
        began.append(trio.current_time())
        await trio.sleep(1_000)

    async with app:
        handle = await job.put()
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: app.work(task_status=task_status))
            await trio.sleep(20)
            nursery.cancel_scope.cancel()  # gives it back
        await trio.sleep(100)
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: app.work(task_status=task_status))
            with pytest.raises(TaskFailed, match="TaskTimeout"):
                await handle.result()
            nursery.cancel_scope.cancel()
        assert began == [0]


# --- without trio --------------------------------------------------------------------------------------------------


def test_a_blocking_holder_is_named_and_puts_nothing_off_past_the_total_time() -> None:
    store = MemoryStore(lambda: datetime.now(UTC))
    app = StreamQ.on(store, InlineBridge(), retry=Retry(first_s=100, jitter=False), worker_id="mill")
    queue = app.blocking.queue("q")
    reply = queue.put(1, total_timeout_s=60, tag="t", priority=Priority.HIGH)
    task = queue.claim()
    assert task is not None
    assert (task.info.tag, task.info.priority) == ("t", 100)
    task.fail("no")
    document = store.documents[reply.id]
    assert (document["status"], document["worker"]) == ("failed", "mill")


def test_a_blocking_claim_does_not_take_what_has_expired_and_ends_it() -> None:
    store = MemoryStore(lambda: datetime.now(UTC))
    queue = StreamQ.on(store, InlineBridge()).blocking.queue("q")
    reply = queue.put(1, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert queue.claim() is None
    assert store.documents[reply.id]["status"] == "expired"
