"""Cancelling a task while this process has it in its hands: claimed ahead, running, settling, or just being claimed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

from streamq import CancelTask, OptionInvalid, Retry, Snooze, StreamQ, TaskFailed
from streamq.bridge import InlineBridge
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time
from tests.runtime.test_leases import stored, working

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def status_of(app: StreamQ, handle: Any) -> str:
    await settled()
    return stored(app, handle)["status"]


async def test_task_that_waits_is_cancelled_and_its_waiter_told() -> None:
    app = memory_app()
    async with app:
        handle = await app.queue("q").put(1)
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(TaskFailed, match="cancelled") as caught:
                    await handle.result()
                assert caught.value.status == "cancelled"

            nursery.start_soon(wait)
            await settled()
            assert await handle.cancel() == "cancelled"
        assert await app.cancel([handle, str(handle.id)]) == {handle.id: "cancelled"}
        assert await app.cancel(handle.id) == "cancelled"


@pytest.mark.parametrize("wrong", ["xyz", 1, None, ["xyz"], [1]])
async def test_cancel_refuses_what_names_no_task(wrong: Any) -> None:
    async with memory_app() as app:
        with pytest.raises(OptionInvalid, match="id="):
            await app.cancel(wrong)


@pytest.mark.parametrize("timeout_s", [None, 1_000.0])
async def test_running_handler_is_cancelled_at_once_and_may_clean_up(timeout_s: float | None) -> None:
    app = memory_app(safety_scan_s=None)
    ended_at: list[float] = []

    @app.task(timeout_s=timeout_s)
    async def long() -> None:
        try:
            await trio.sleep(100)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            ended_at.append(trio.current_time())

    async with working(app, slots=1):
        handle = await long.put()
        await settled()
        began_at = trio.current_time()
        assert await handle.cancel() == "asked"
        assert (await handle.status()) == "running"  # until it has ended
        with pytest.raises(TaskFailed, match="cancelled"):
            await handle.result()
        assert ended_at == [began_at + 3]
        assert "cancel_to" not in stored(app, handle)
        assert stored(app, handle).get("errors") is None
        after = await long.put()  # the slot goes on
        await settled()
        assert stored(app, after)["status"] == "running"
        await after.cancel()
    assert app.journal.counts["cancel"] == 2
    assert app.journal.counts["lease lost"] == 0


@pytest.mark.parametrize("timeout_s", [None, 1_000.0])
async def test_what_the_clean_up_raises_is_kept_and_not_retried(timeout_s: float | None) -> None:
    app = memory_app()

    @app.task(timeout_s=timeout_s)
    async def long() -> None:
        try:
            await trio.sleep(100)
        except trio.Cancelled:
            raise ValueError("half done") from None

    async with working(app, slots=1):
        handle = await long.put()
        await settled()
        await handle.cancel()
        with pytest.raises(TaskFailed, match="cancelled: ValueError: half done"):
            await handle.result()
    assert stored(app, handle)["attempt"] == 1


@pytest.mark.parametrize("timeout_s", [None, 1_000.0])
async def test_handler_that_is_through_before_it_hears_has_succeeded(timeout_s: float | None) -> None:
    app = memory_app()

    @app.task(timeout_s=timeout_s)
    async def long() -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        return "done"

    async with working(app, slots=1):
        handle = await long.put()
        await settled()
        assert await handle.cancel() == "asked"
        assert await handle.result() == "done"
        assert await handle.cancel() == "ended"
        assert await (await long.put()).result() == "done"


async def test_task_that_was_claimed_ahead_is_cancelled_without_beginning() -> None:
    app = memory_app()
    ran: list[int] = []
    async with app, app.queue("q").consume(prefetch=2) as tasks:
        handles = await app.queue("q").put_many([1, 2, 3])
        async for task in tasks:
            async with task:
                ran.append(task.payload)
                await settled()
                if task.payload == 1:
                    assert stored(app, handles[1])["status"] == "running"
                    assert await handles[1].cancel() == "asked"
                    assert await status_of(app, handles[1]) == "cancelled"
            if task.payload == 3:
                break
    assert ran == [1, 3]


class SlowBridge(InlineBridge):
    """Calls of these names are slow to get there (`late`), or their answers to come back (`slow`)."""

    def __init__(self) -> None:
        self.late: dict[str, float] = {}
        self.slow: dict[str, float] = {}

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        name = getattr(function, "__name__", "")
        with trio.CancelScope(shield=True):
            await trio.sleep(self.late.get(name, 0))
        answer = await super().call(function, *args)
        with trio.CancelScope(shield=True):
            await trio.sleep(self.slow.get(name, 0))
        return answer


def slow_app(**options: Any) -> tuple[StreamQ, SlowBridge]:
    bridge = SlowBridge()
    return StreamQ.on(MemoryStore(trio_time), bridge, **options), bridge


async def test_word_that_comes_before_the_answer_to_the_claim_is_not_lost() -> None:
    app, bridge = slow_app(safety_scan_s=None)

    @app.task
    async def long() -> None:
        await trio.sleep(1_000)

    async with working(app, slots=1):
        await settled()  # the looks of the start are over
        bridge.slow["claim"] = 5.0
        handle = await long.put()
        await trio.sleep(1)
        assert stored(app, handle)["status"] == "running"  # there; the answer is on its way
        assert await handle.cancel() == "asked"
        await trio.sleep(5)
        assert await status_of(app, handle) == "cancelled"


@pytest.mark.parametrize(("says", "ends"), [(None, "succeeded"), (Snooze(10), "delayed"), (ValueError("x"), "delayed")])
async def test_settlement_that_was_written_before_the_wish_stands_and_the_wish_meets_what_it_left(
    says: Exception | None, ends: str
) -> None:
    app, bridge = slow_app(retry=Retry(first_s=500, jitter=False))

    @app.task
    async def short() -> None:
        if says is not None:
            raise says

    async with working(app, slots=1):
        await settled()
        bridge.slow["settle"] = 5.0
        handle = await short.put()
        await trio.sleep(1)
        assert stored(app, handle)["status"] == ends  # written; the answer is on its way
        reply = await handle.cancel()
        assert reply == ("ended" if ends == "succeeded" else "cancelled")
        await trio.sleep(20)
        assert stored(app, handle)["status"] == ("succeeded" if ends == "succeeded" else "cancelled")
    assert app.journal.counts["lease lost"] == 0


@pytest.mark.parametrize(
    ("says", "ends"), [(None, "succeeded"), (Snooze(10), "cancelled"), (ValueError(), "cancelled")]
)
async def test_wish_that_is_written_before_a_settlement_on_its_way_decides_what_would_go_back(
    says: Exception | None, ends: str
) -> None:
    app, bridge = slow_app(retry=Retry(first_s=500, jitter=False))

    @app.task
    async def short() -> None:
        if says is not None:
            raise says

    async with working(app, slots=1):
        await settled()
        bridge.late["settle"] = 5.0
        handle = await short.put()
        await trio.sleep(1)
        assert stored(app, handle)["status"] == "running"
        assert await handle.cancel() == "asked"
        await trio.sleep(5)
        assert await status_of(app, handle) == ends
    assert app.journal.counts["lease lost"] == 0


async def test_word_about_a_claim_of_before_touches_no_newer_one() -> None:
    app = memory_app()

    @app.task
    async def long() -> str:
        await trio.sleep(10)
        return "done"

    async with working(app, slots=1):
        handle = await long.put()
        await settled()
        app.services().canceller.hear(handle.id)  # of a claim that has ended; the task was requeued and claimed here
        assert await handle.result() == "done"


async def test_lost_word_is_made_up_for_by_the_safety_scan() -> None:
    app = memory_app(safety_scan_s=30)

    @app.task
    async def long() -> None:
        await trio.sleep(1_000)

    async with working(app, slots=1):
        handle = await long.put()
        await settled()
        stored(app, handle)["cancel_to"] = "nobody"  # as if the stream had never told it
        with trio.fail_after(31), pytest.raises(TaskFailed, match="cancelled"):
            await handle.result()


async def test_lost_word_is_made_up_for_when_the_stream_is_opened_again() -> None:
    app = memory_app(safety_scan_s=None)

    @app.task
    async def long() -> None:
        await trio.sleep(1_000)

    async with working(app, slots=1):
        handle = await long.put()
        await settled()
        stored(app, handle)["cancel_to"] = "nobody"
        async with app.queue("another").consume():  # a wider stream: it is opened anew
            assert await status_of(app, handle) == "cancelled"


async def test_worker_that_is_stopped_while_it_cancels_ends_the_task_too() -> None:
    app = memory_app()

    @app.task
    async def long() -> None:
        try:
            await trio.sleep(1_000)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)

    async with working(app, slots=1):
        handle = await long.put()
        await settled()
        await handle.cancel()
        await settled()
    assert stored(app, handle)["status"] == "cancelled"
    assert stored(app, handle)["attempt"] == 1


@pytest.mark.parametrize("grouped", [False, True])
async def test_handler_cancels_its_own_task_and_the_reason_is_kept(grouped: bool) -> None:
    app = memory_app()

    @app.task
    async def useless() -> None:
        error = CancelTask("the order was withdrawn")
        raise ExceptionGroup("all", [error, Snooze(1)]) if grouped else error

    async with working(app, slots=1):
        handle = await useless.put()
        with pytest.raises(TaskFailed, match="cancelled: Cancelled: the order was withdrawn"):
            await handle.result()
    assert stored(app, handle)["attempt"] == 1


async def test_block_of_a_bare_task_is_cancelled_quietly() -> None:
    app = memory_app()
    async with app, app.queue("q").consume() as tasks:
        handle = await app.queue("q").put(1)
        async for task in tasks:
            assert not task.cancel_asked
            async with task:
                assert await handle.cancel() == "asked"
                await trio.sleep(1_000)
            assert task.cancel_asked
            break
        assert await status_of(app, handle) == "cancelled"


async def test_bare_task_in_hand_is_told_and_its_block_does_not_begin() -> None:
    app = memory_app()
    async with app, app.queue("q").consume(prefetch=0) as tasks:
        handle = await app.queue("q").put(1)
        task = await anext(tasks)
        await handle.cancel()
        await settled()
        assert task.cancel_asked
        assert stored(app, handle)["status"] == "running"  # in the hands of the user, who settles it
        async with task:
            await trio.lowlevel.checkpoint()
            raise AssertionError
        assert await status_of(app, handle) == "cancelled"


async def test_bare_task_that_is_done_has_succeeded_whatever_was_asked() -> None:
    app = memory_app()
    async with app, app.queue("q").consume(prefetch=0) as tasks:
        handle = await app.queue("q").put(1)
        async with await anext(tasks):
            await handle.cancel()
        assert await status_of(app, handle) == "succeeded"


async def test_error_beside_the_cancellation_of_a_bare_task_is_kept() -> None:
    app = memory_app()

    async def fails() -> None:
        try:
            await trio.sleep(math.inf)
        except trio.Cancelled:
            raise ValueError("half done") from None

    async with app, app.queue("q").consume(prefetch=0) as tasks:
        handle = await app.queue("q").put(1)
        async with await anext(tasks), trio.open_nursery() as nursery:
            nursery.start_soon(fails)
            nursery.start_soon(trio.sleep_forever)
            await settled()
            await handle.cancel()
        assert await status_of(app, handle) == "cancelled"
        assert "half done" in stored(app, handle)["errors"][-1]["traceback"]


async def test_holder_of_a_bare_task_cancels_it_with_a_reason() -> None:
    app = memory_app()
    async with app, app.queue("q").consume(prefetch=0) as tasks:
        handle = await app.queue("q").put(1)
        async with await anext(tasks) as task:
            with pytest.raises(OptionInvalid, match="reason"):
                await task.cancel(1)  # type: ignore[arg-type]
            await task.cancel("not today")
        with pytest.raises(TaskFailed, match="cancelled: Cancelled: not today"):
            await handle.result()
