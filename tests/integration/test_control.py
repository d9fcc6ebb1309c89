"""Steering tasks and queues from another process, on a real server: two apps, each with its own client and stream."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio

import streamq
from streamq import CancelTask, Handle, LeaseLost, OptionInvalid, TaskFailed
from tests.integration.conftest import MakeApp
from tests.integration.holding import settlements_held


async def test_running_handler_is_cancelled_from_another_process_within_milliseconds(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
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
            with settlements_held(monkeypatch):
                assert await handle.cancel() == "asked"
            await cancelled.wait()
            with pytest.raises(TaskFailed, match="cancelled"):
                await handle.result()
        nursery.cancel_scope.cancel()


async def test_clean_up_that_a_handler_shields_ends_before_its_task_is_cancelled(make_app: MakeApp) -> None:
    app = make_app(safety_scan_s=None)
    began, cleaning, go = trio.Event(), trio.Event(), trio.Event()
    cleaned: list[bool] = []

    @app.task
    async def long() -> None:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                cleaning.set()
                await go.wait()
                await trio.lowlevel.checkpoint()
                cleaned.append(True)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        handle = await long.put()
        with trio.fail_after(10):
            await began.wait()
            assert await handle.cancel() == "asked"
            await cleaning.wait()
            assert await handle.status() == "running"
            go.set()
            with pytest.raises(TaskFailed, match="cancelled"):
                await handle.result()
        assert cleaned == [True]
        nursery.cancel_scope.cancel()


async def test_handler_in_a_thread_is_given_up_and_its_late_result_refused(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
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
            with settlements_held(monkeypatch):
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
    assert not task.extend()
    assert app.blocking.cancel(id) == "asked"
    assert task.cancel_asked()
    assert task.extend(60)
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


async def test_handlers_of_both_kinds_say_how_far_they_are(make_app: MakeApp) -> None:
    app = make_app()
    go = threading.Event()

    @app.task
    async def in_trio() -> None:
        await streamq.progress(0.5, "half")

    @app.task
    def in_thread() -> None:
        streamq.progress_in_thread(1, "one")
        go.wait(10)
        streamq.progress_in_thread(2, "two")

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        first, second = await in_trio.put(), await in_thread.put()
        with trio.fail_after(10):
            while (said := await second.progress()) is None:
                await trio.lowlevel.checkpoint()
            assert (said.value, said.note) == (1, "one")
            go.set()
            await first.wait()
            await second.wait()
        for handle, value in ((first, 0.5), (second, 2)):
            progress = await handle.progress()
            assert progress is not None
            assert progress.value == value
        nursery.cancel_scope.cancel()


async def test_thread_that_was_given_up_ends_at_its_next_report(make_app: MakeApp) -> None:
    app = make_app()
    began, go = threading.Event(), threading.Event()
    ended: list[str] = []

    @app.task
    def stuck() -> None:
        began.set()
        go.wait(30)
        try:
            streamq.progress_in_thread(1)
        except LeaseLost:
            ended.append("lost")
            raise
        finally:
            ended.append("ended")

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        handle = await stuck.put()
        await trio.to_thread.run_sync(began.wait)
        await handle.cancel()
        with pytest.raises(TaskFailed, match="cancelled"):
            await handle.result(timeout_s=5)
        go.set()
        with trio.fail_after(5):
            while "ended" not in ended:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert ended == ["lost", "ended"]


def test_blocking_holder_says_how_far_it_is_and_releases_for_later(make_app: MakeApp) -> None:
    app = make_app()
    queue = app.blocking.queue("q")
    id = queue.put(1).id
    task = queue.claim()
    assert task is not None
    with pytest.raises(OptionInvalid, match="value"):
        task.progress("much")  # type: ignore[arg-type]
    task.progress(3, "three")
    stored = app.store.get(id)
    assert stored is not None
    assert stored["progress"]["value"] == 3
    progress = app.blocking.progress(id)
    assert progress is not None
    assert progress.note == "three"
    task.release(60)
    with pytest.raises(LeaseLost):
        task.progress(4)
    assert app.store.counts() == {"q": {"delayed": 1}}


async def test_queue_is_paused_and_resumed_from_another_process(make_app: MakeApp) -> None:
    worker, other = make_app(safety_scan_s=None), make_app()
    began = trio.Event()

    @worker.task(queue="q")
    async def note() -> None:
        began.set()

    async with worker, other, trio.open_nursery() as nursery:
        await nursery.start(worker.work)
        await other.queue("q").pause()
        with trio.fail_after(5):
            while not worker.services().watcher._paused:
                await trio.lowlevel.checkpoint()
        handle = await note.put()
        assert await other.queue("q").claim() is None
        assert (await handle.status()) == "ready"
        assert await worker.queue("q").is_paused()
        await other.queue("q").resume()
        with trio.fail_after(5):
            await began.wait()
            await handle.wait()
        nursery.cancel_scope.cancel()


async def test_task_that_runs_when_its_queue_is_paused_finishes(make_app: MakeApp) -> None:
    worker, other = make_app(safety_scan_s=None), make_app()
    began, go = trio.Event(), trio.Event()

    @worker.task(queue="q")
    async def long() -> str:
        began.set()
        await go.wait()
        return "done"

    async with worker, other, trio.open_nursery() as nursery:
        await nursery.start(worker.work)
        handle = await long.put()
        with trio.fail_after(5):
            await began.wait()
            await other.queue("q").pause()
            while not worker.services().watcher._paused:
                await trio.lowlevel.checkpoint()
            go.set()
            assert await handle.result() == "done"
        nursery.cancel_scope.cancel()


def test_blocking_claim_respects_a_pause_and_is_woken_when_it_ends(make_app: MakeApp) -> None:
    app = make_app()
    queue = app.blocking.queue("q")
    queue.pause()
    queue.put(1)
    assert queue.is_paused()
    assert queue.claim() is None
    assert queue.claim_many(5, wait_s=0.1) == []
    timer = threading.Timer(0.1, queue.resume)
    timer.start()
    task = queue.claim(wait_s=10)
    timer.join()
    assert task is not None
    assert task.payload == 1
    assert not queue.is_paused()
