"""Steering tasks and queues from another process, on a real server: two apps, each with its own client and stream."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio

from streamq import CancelTask, Handle, LeaseLost, TaskFailed
from tests.integration.test_app import MakeApp


async def test_running_handler_is_cancelled_from_another_process_within_milliseconds(make_app: MakeApp) -> None:
    worker, other = make_app(safety_scan_s=None), make_app()
    began, cancelled = trio.Event(), trio.Event()

    @worker.task
    async def long() -> None:
        began.set()
        try:
            await trio.sleep(60)
        finally:
            cancelled.set()

    async with worker, other, trio.open_nursery() as nursery:
        await nursery.start(worker.work)
        handle: Handle[Any] = other.handle((await long.put()).id)
        await began.wait()
        with trio.fail_after(5):
            assert await handle.cancel() == "asked"
            await cancelled.wait()
            with pytest.raises(TaskFailed, match="cancelled"):
                await handle.result()
        nursery.cancel_scope.cancel()


async def test_handler_in_a_thread_is_given_up_and_its_late_result_refused(make_app: MakeApp) -> None:
    app = make_app()
    began, go = threading.Event(), threading.Event()

    @app.task
    def stuck() -> str:
        began.set()
        go.wait(30)
        return "too late"

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        handle = await stuck.put()
        await trio.to_thread.run_sync(began.wait)
        with trio.fail_after(5):
            assert await handle.cancel() == "asked"
            with pytest.raises(TaskFailed, match="cancelled"):
                await handle.result()
        assert app.journal.counts["thread left behind"] == 1
        go.set()
        nursery.cancel_scope.cancel()
    assert app.blocking.queue("default").claim() is None


async def test_many_tasks_are_cancelled_by_one_call(make_app: MakeApp) -> None:
    app = make_app()
    async with app:
        handles = await app.queue("q").put_many(range(50))
        replies = await app.cancel(handles)
        assert replies == {handle.id: "cancelled" for handle in handles}
        assert await app.counts() == {"q": {"cancelled": 50}}


def test_blocking_holder_asks_whether_its_task_is_to_be_cancelled(make_app: MakeApp) -> None:
    app = make_app()
    queue = app.blocking.queue("q")
    id = queue.put(1).id
    task = queue.claim()
    assert task is not None
    assert not task.cancel_asked()
    assert app.blocking.cancel(id) == "asked"
    assert task.cancel_asked()
    task.cancel("as asked")
    assert app.blocking.cancel([id, str(id)]) == {id: "cancelled"}
    stored = app.store.get(id)
    assert stored is not None
    assert stored["errors"][-1]["message"] == "as asked"
    assert queue.claim() is None
    with pytest.raises(LeaseLost):
        task.extend()


def test_blocking_block_ends_its_task_by_a_signal(make_app: MakeApp) -> None:
    app = make_app()
    queue = app.blocking.queue("q")
    id = queue.put(1).id
    task = queue.claim()
    assert task is not None
    with task:
        raise CancelTask("no more")
    stored = app.store.get(id)
    assert stored is not None
    assert (stored["status"], stored["errors"][-1]["type"]) == ("cancelled", "Cancelled")
