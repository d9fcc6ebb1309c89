"""Edges where two features of the runtime meet: what one leaves half done, the other must not trip over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import trio
import trio.testing

import streamq
from streamq import LeaseLost, Retry, StoreUnavailable, UsageError
from streamq.bridge import InlineBridge
from streamq.core.claim import Ask
from streamq.core.document import TaskDocument
from streamq.core.settlement import Settlement
from streamq.runtime.takers import TAKES_A_TURN, Takers
from streamq.store.contract import Claimed
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time
from tests.runtime.test_cancel import SlowBridge, settled, slow_app
from tests.runtime.test_leases import memory, stored, working


async def test_task_cancelled_while_its_slot_lets_others_have_their_turn_does_not_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slot that has taken its task may wait one moment before it runs it: one take in `TAKES_A_TURN` does."""
    app = memory_app(safety_scan_s=None)
    ran: list[int] = []
    checkpoint = trio.lowlevel.cancel_shielded_checkpoint
    handles: list[Any] = []
    met: list[bool] = []

    @app.task
    async def note(number: int) -> None:
        ran.append(number)

    async def meanwhile() -> None:
        taken = [held for held in app.services().holdings if handles and held.claim.id == handles[-1].id]
        if taken and not met:
            met.append(True)
            app.services().canceller._cancel(taken[0])
        await checkpoint()

    async with working(app, slots=1):
        for number in range(TAKES_A_TURN - 1):
            await (await note.put(number)).wait()
        await settled()
        new = note.new(-1)
        handles.append(app.handle(new.id))
        monkeypatch.setattr("streamq.runtime.takers.trio.lowlevel.cancel_shielded_checkpoint", meanwhile)
        await app.put_many([new])
        await settled()
        assert met
        assert stored(app, handles[-1])["status"] == "cancelled"
        assert -1 not in ran


async def test_pause_is_known_to_a_loop_on_a_queue_that_the_stream_tells_of_and_nobody_served() -> None:
    """The stream is narrowed at its next opening only: until then who comes back is not told by opening it."""
    app = memory_app(safety_scan_s=30)

    @app.task(queue="other")
    async def note() -> None: ...

    async with working(app):
        async with app.queue("q").consume():
            pass
        await app.queue("q").pause()
        await trio.sleep(100)  # some safety scans
        handle = await app.queue("q").put(1)
        async with app.queue("q").consume():
            await settled()
            assert stored(app, handle)["status"] == "ready"


async def test_worker_is_stopped_in_good_order_while_it_cannot_store_its_schedules() -> None:
    app = memory_app()

    @app.task(every_s=60)
    async def note() -> None: ...

    stop = trio.Event()
    async with app, trio.open_nursery() as nursery:

        def away(*_: Any) -> None:
            raise StoreUnavailable("away")

        memory(app).declare = away  # type: ignore[assignment]
        nursery.start_soon(lambda: app.work(stop=stop, grace_s=1))
        await trio.sleep(100)
        stop.set()
        with trio.fail_after(10):
            while nursery.child_tasks:  # noqa: ASYNC110 - virtual time
                await trio.sleep(1)


async def test_progress_of_a_handler_that_outlives_its_app_does_not_hang() -> None:
    """Of a handler in a thread, or one that shields its clean-up: nobody could end it."""
    app = memory_app()
    left, ended = trio.Event(), trio.Event()
    said: list[BaseException] = []

    @app.task
    async def long() -> None:
        with trio.CancelScope(shield=True):
            await left.wait()
            with trio.move_on_after(100):
                try:
                    await streamq.progress(1)
                except LeaseLost as error:
                    said.append(error)
                ended.set()

    async def work(*, task_status: trio.TaskStatus[None]) -> None:
        with pytest.raises(UsageError):
            await app.work(task_status=task_status)

    async with trio.open_nursery() as nursery:
        async with app:
            await nursery.start(work)
            await long.put()
            await settled()
        left.set()
    assert ended.is_set()
    assert said


async def test_claim_in_flight_as_the_app_is_left_is_given_back() -> None:
    app, bridge = slow_app()
    said: list[Any] = []

    async def claim() -> None:
        try:
            said.append(await app.queue("q").claim())
        except UsageError as error:
            said.append(error)

    async with trio.open_nursery() as nursery, app:
        handle = await app.queue("q").put(1)
        bridge.slow["look"] = 5.0
        nursery.start_soon(claim)
        await trio.sleep(1)
        assert stored(app, handle)["status"] == "running"
    assert stored(app, handle)["status"] == "ready"
    assert stored(app, handle)["attempt"] == 0
    assert isinstance(said[0], UsageError)


async def test_next_task_of_a_loop_whose_block_was_left_is_refused() -> None:
    app = memory_app()
    async with app:
        async with app.queue("q").consume() as tasks:
            pass
        with trio.fail_after(10), pytest.raises(UsageError, match="left"):
            await anext(tasks)


async def test_loop_that_waits_as_its_block_is_left_is_told() -> None:
    app = memory_app()
    said: list[UsageError] = []

    async def loop(tasks: Any) -> None:
        try:
            await anext(tasks)
        except UsageError as error:
            said.append(error)

    async with app, trio.open_nursery() as nursery:
        async with app.queue("q").consume() as tasks:
            nursery.start_soon(loop, tasks)
            await settled()
        await trio.sleep(10)
        assert said
        nursery.cancel_scope.cancel()


async def test_worker_that_outlives_its_app_with_all_slots_busy_gives_back_what_runs() -> None:
    """Going on, its handlers would come to ends that nobody can store."""
    app = memory_app()

    @app.task
    async def job() -> None:
        await trio.sleep(1_000)

    async def work(*, task_status: trio.TaskStatus[None]) -> None:
        with pytest.raises(UsageError):
            await app.work(concurrency=1, task_status=task_status)

    async with trio.open_nursery() as nursery, app:
        await nursery.start(work)
        handle = await job.put()
        await settled()
    assert (stored(app, handle)["status"], stored(app, handle)["attempt"]) == ("ready", 0)
    assert trio.current_time() < 1


class TransactionStore(MemoryStore):
    """A store whose transactions hold nothing but the success."""

    def begin(self) -> Any:
        return object()

    def commit(self, session: Any, settlement: Settlement) -> Any:
        return self.settle([settlement])[0]

    def abort(self, session: Any, error: BaseException | None) -> str | None:
        return None


async def test_transaction_waits_for_a_report_in_flight() -> None:
    """Its write would end in the transaction's way, and leave the claim with its own, shorter lease."""
    bridge = SlowBridge()
    app = streamq.StreamQ.on(TransactionStore(trio_time), bridge, lease_s=10, safety_scan_s=None)

    @app.task
    async def long() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(streamq.progress, 1)
            await trio.sleep(1)
            async with streamq.transaction():
                await trio.sleep(50)

    async with working(app):
        await settled()
        bridge.late["report"] = 2.0
        handle = await long.put()
        await trio.sleep(45)
        assert app.journal.counts["lease lost"] == 0
        assert app.journal.counts["leases no longer trusted"] == 0
        await trio.sleep(45)
        assert stored(app, handle)["status"] == "succeeded"
        assert stored(app, handle)["attempt"] == 1


async def test_transaction_waits_for_an_extension_in_flight() -> None:
    """One that a child task of the holder asked for would leave the claim with a lease that ends before it does."""
    bridge = SlowBridge()
    store = TransactionStore(trio_time)
    app = streamq.StreamQ.on(store, bridge, lease_s=40, safety_scan_s=None)
    async with app:
        handle = await app.queue("q").put(1)
        task = await app.queue("q").claim()
        assert task is not None
        bridge.late["extend"] = 2.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task.extend, 5)
            await settled()
            bridge.late.clear()
            async with task.transaction():
                await trio.sleep(30)
                store.tick()
        assert stored(app, handle)["status"] == "succeeded"


async def test_what_was_said_in_a_transaction_that_was_aborted_is_written_after_it() -> None:
    """By then it is true, whatever became of the transaction; and the task may still run for long."""
    app = streamq.StreamQ.on(TransactionStore(trio_time), InlineBridge(), lease_s=40, safety_scan_s=None)
    async with app:
        handle = await app.queue("q").put(1)
        task = await app.queue("q").claim()
        assert task is not None
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with task.transaction():
                await task.progress(0.5)
                raise ZeroDivisionError
        await trio.sleep(1)
        assert stored(app, handle)["progress"]["value"] == 0.5


async def test_task_of_a_slot_that_lets_others_have_their_turn_does_not_begin_once_it_is_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In good order: what had not begun by then is given back."""
    app = memory_app(safety_scan_s=None)
    stop = trio.Event()
    ran: list[int] = []
    checkpoint = trio.lowlevel.cancel_shielded_checkpoint

    @app.task
    async def note(number: int) -> None:
        ran.append(number)

    async def meanwhile() -> None:
        if any(held.claim.id == new.id for held in app.services().holdings):
            stop.set()
            for _ in range(3):
                await checkpoint()
        await checkpoint()

    new = note.new(-1)
    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda *, task_status: app.work(concurrency=1, stop=stop, task_status=task_status))
        for number in range(TAKES_A_TURN - 1):
            await (await note.put(number)).wait()
        await settled()
        monkeypatch.setattr("streamq.runtime.takers.trio.lowlevel.cancel_shielded_checkpoint", meanwhile)
        await app.put_many([new])
        await stop.wait()
        await trio.sleep(1)
        assert not nursery.child_tasks
    assert (memory(app).documents[new.id]["status"], memory(app).documents[new.id]["attempt"]) == ("ready", 0)
    assert -1 not in ran


@pytest.mark.parametrize("how", ["work", "consume", "result", "claim"])
async def test_who_waits_for_the_stream_as_the_app_is_left_is_told(how: str) -> None:
    """It will not open any more."""
    app, bridge = slow_app()
    bridge.late["feed"] = 5.0
    said: list[UsageError] = []

    @app.task
    async def job() -> None: ...

    async def wait() -> None:
        try:
            if how == "work":
                await app.work()
            elif how == "consume":
                async with app.queue("q").consume():
                    pass
            elif how == "claim":
                await app.queue("q").claim(wait_s=1_000)
            else:
                await (await job.put()).result()
        except UsageError as error:
            said.append(error)

    async with trio.open_nursery() as nursery:
        async with app:
            nursery.start_soon(wait)
            await settled()
        with trio.move_on_after(100):
            while nursery.child_tasks:  # noqa: ASYNC110 - virtual time
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert "the app was left" in str(said)


async def test_who_waits_for_a_result_as_the_app_is_left_is_told() -> None:
    app = memory_app()
    said: list[UsageError] = []

    async def wait() -> None:
        try:
            await (await app.queue("q").put(1)).result()
        except UsageError as error:
            said.append(error)

    async with trio.open_nursery() as nursery:
        async with app:
            nursery.start_soon(wait)
            await settled()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert "the app was left" in str(said)


async def test_only_attempt_does_not_begin_in_a_worker_that_was_cancelled_as_a_slot_got_the_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slot that was woken for a task hears of a cancellation at its next checkpoint only, which is the handler's."""
    app = memory_app(retry=Retry(max_attempts=1))
    began: list[bool] = []
    wake = Takers.wake

    @app.task
    async def once() -> None:
        began.append(True)
        await trio.sleep(1)

    async with app:
        async with trio.open_nursery() as nursery:
            await nursery.start(app.work)
            await settled()

            def woken(takers: Takers, count: int) -> None:
                wake(takers, count)
                nursery.cancel_scope.cancel()

            monkeypatch.setattr(Takers, "wake", woken)
            new = once.new()
            memory(app).put([new])  # as another process does
            await trio.sleep(10)
        task = memory(app).documents[new.id]
        assert (task["status"], task["attempt"], began) == ("ready", 0, [])


async def test_task_that_was_delayed_before_the_worker_came_starts_on_time() -> None:
    """No stream tells of it: the scheduler's first look tells the releaser."""
    app = memory_app(safety_scan_s=None, lease_s=86_400)

    @app.task
    async def when() -> float:
        return trio.current_time()

    async with app, trio.open_nursery() as nursery:
        handle = await when.options(delay_s=50).put()
        put_at = trio.current_time()
        await trio.sleep(10)
        await nursery.start(app.work)
        assert await handle.result() - put_at == pytest.approx(50, abs=0.002)
        nursery.cancel_scope.cancel()


async def test_due_task_whose_claim_fails_is_released_at_once() -> None:
    app = memory_app(safety_scan_s=None, lease_s=86_400)
    store = cast(MemoryStore, app.store)
    failed = 0

    def failing(ask: Ask, found: Sequence[TaskDocument]) -> Claimed:
        nonlocal failed
        failed += 1
        raise StoreUnavailable("no primary")

    store.claim_due = failing  # type: ignore[method-assign]

    @app.task
    async def when() -> float:
        return trio.current_time()

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        put_at = trio.current_time()
        handle = await when.options(delay_s=5).put()
        assert await handle.result() - put_at < 6
        assert failed == 1
        nursery.cancel_scope.cancel()
