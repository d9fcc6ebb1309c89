"""Stopping: a worker gives back all it has or is about to get, and ends with an error only for one that matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import trio
import trio.testing

from streamq import Retry, StreamQ, UsageError
from streamq.bridge import Deliver, InlineBridge, Swift
from streamq.runtime import clock
from streamq.store.contract import Feed
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time


class SwiftBridge(InlineBridge):
    """A bridge whose feed claims ahead of trio, as the feed's thread does, and hands over what it claimed when `gate`
    opens: until then the claim is in flight."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.claimed = 0

    async def follow(self, feed: Feed, swift: Swift, deliver: Deliver, ring: Callable[[], None]) -> None:
        lot = trio.lowlevel.ParkingLot()
        cast(Any, feed).on_wake = lot.unpark
        try:
            while True:
                while (wake := feed.read()) is not None:
                    early = swift(wake)
                    if early is not None:
                        self.claimed += 1
                        with trio.CancelScope(shield=True):
                            await self.gate.wait()
                    deliver([early or wake])
                await lot.park()
        finally:
            feed.close()


@pytest.fixture(autouse=True)
def virtual_thread_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the feed's thread, which is none here, tell bursts by trio's clock."""
    monkeypatch.setattr(clock, "thread_now", trio.current_time)


# --- claims in flight in the feed's thread ---------------------------------------------------------------------


async def test_stopped_worker_gives_back_what_a_claim_in_flight_in_the_feed_obtains() -> None:
    """Nobody else would: held and extended by an app that works no more, the task would run nowhere."""
    store, bridge = MemoryStore(trio_time), SwiftBridge()
    app = StreamQ.on(store, bridge, safety_scan_s=None)

    @app.task(retry=Retry(max_attempts=2))
    async def job() -> None:
        raise AssertionError("never run: the worker is stopped")

    async with app:
        async with trio.open_nursery() as nursery:
            await nursery.start(app.work)
            await trio.sleep(10)
            new = job.new()
            store.put([new])  # as another process does
            await trio.testing.wait_all_tasks_blocked()
            assert bridge.claimed == 1
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            bridge.gate.set()
        assert len(app.services().holdings) == 0
        assert (store.documents[new.id]["status"], store.documents[new.id]["attempt"]) == ("ready", 0)


async def test_stopped_worker_ends_only_when_no_claim_is_in_flight_in_the_feed() -> None:
    """Whoever leaves the app next must find everything given back."""
    store, bridge = MemoryStore(trio_time), SwiftBridge()
    app = StreamQ.on(store, bridge, safety_scan_s=None)

    @app.task
    async def job() -> None: ...

    async with app, trio.open_nursery() as nursery:
        scope, ended = trio.CancelScope(), trio.Event()

        async def work(*, task_status: trio.TaskStatus[None]) -> None:
            with scope:
                await app.work(task_status=task_status)
            ended.set()

        await nursery.start(work)
        await trio.sleep(10)
        store.put([job.new()])
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.sleep(1_000)
        assert not ended.is_set()
        bridge.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert ended.is_set()


# --- takers that have left -------------------------------------------------------------------------------------


async def test_taker_that_was_cancelled_leaves_no_slot_on_offer() -> None:
    """With `prefetch=0` nothing is claimed while nobody asks, by the feed neither."""
    store, bridge = MemoryStore(trio_time), SwiftBridge()
    bridge.gate.set()
    app = StreamQ.on(store, bridge, safety_scan_s=None)
    async with app, app.queue("q").consume(prefetch=0) as tasks:
        with trio.move_on_after(1):
            await anext(tasks)
        await trio.testing.wait_all_tasks_blocked()
        new = app.queue("q").new(1)
        store.put([new])
        await trio.sleep(5)
        assert (store.documents[new.id]["status"], len(app.services().holdings)) == ("ready", 0)
        assert bridge.claimed == 0


async def test_task_is_given_back_when_its_taker_left_during_the_claim_and_none_may_wait() -> None:
    """A kill would burn the attempt of a task that did not start."""
    store, bridge = MemoryStore(trio_time), SwiftBridge()
    app = StreamQ.on(store, bridge, safety_scan_s=None)
    async with app, app.queue("q").consume(prefetch=0) as tasks:
        new = app.queue("q").new(1, max_attempts=2)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tasks.__anext__)
                await trio.sleep(10)
                store.put([new])
                await trio.testing.wait_all_tasks_blocked()
                assert bridge.claimed == 1
                scope.cancel()
        bridge.gate.set()
        await trio.sleep(5)
        assert len(app.services().holdings) == 0
        assert (store.documents[new.id]["status"], store.documents[new.id]["attempt"]) == ("ready", 0)


# --- how a worker ends -----------------------------------------------------------------------------------------


async def test_worker_that_outlives_its_app_ends_with_a_usage_error() -> None:
    """Its services are gone: going on, it would run tasks that it can never settle."""
    app = memory_app()
    ended: list[UsageError] = []

    @app.task
    async def job() -> None:
        await trio.sleep(1)

    async def work(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await app.work(task_status=task_status)
        except UsageError as error:
            ended.append(error)

    async with trio.open_nursery() as nursery, app:
        await nursery.start(work)
        await job.put()
        await trio.sleep(10)
    assert "the app was left" in str(ended[0])


async def test_loop_that_outlives_its_app_ends_with_a_usage_error() -> None:
    """The next task asked for will not come."""
    app = memory_app()
    ended: list[UsageError] = []

    async def consume(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            async with app.queue("q").consume() as tasks:
                task_status.started()
                await anext(tasks)
        except UsageError as error:
            ended.append(error)

    async with trio.open_nursery() as nursery, app:
        await nursery.start(consume)
    assert "the app was left" in str(ended[0])


async def test_nursery_of_a_handler_that_raises_while_the_worker_is_stopped_does_not_end_the_program() -> None:
    """Besides its cancellation the handler has nobody left to hear its error; the task is given back."""
    app = memory_app()

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("the clean-up failed")

    @app.task
    async def job() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(trio.sleep_forever)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        await job.put()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    (document,) = cast(MemoryStore, app.store).documents.values()
    assert (document["status"], document["attempt"]) == ("ready", 0)


async def test_interrupt_in_a_nursery_of_a_handler_ends_the_program_while_the_worker_is_stopped() -> None:
    """What is not an error of the handler's own passes through."""
    app = memory_app()

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyboardInterrupt

    @app.task
    async def job() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        async with app, trio.open_nursery() as nursery:
            await nursery.start(app.work)
            await job.put()
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
