"""A claim whose answer comes when its lease is all but over: it is given back, not begun."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar, TypeVarTuple, cast

import pytest
import trio
from bson import ObjectId
from trio.testing import MockClock

from streamq import Handle, LeaseLost, StreamQ, current_task
from streamq.bridge import InlineBridge
from streamq.runtime import clock
from streamq.runtime.consumer import Task, Tasks
from streamq.runtime.held import BEATS_A_LEASE, MARGIN
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LEASE_S: Final = 30.0
TRUSTED_S: Final = LEASE_S * (1 - MARGIN)
"""How long a claim is trusted from before it was sent."""

AT_ONCE: Final = 16

TOO_LATE_S: Final = TRUSTED_S - LEASE_S * MARGIN


class LateBridge(InlineBridge):
    """The first claim that obtains something is answered after `late_s`, and with `always` each that does."""

    def __init__(self, late_s: float, *, always: bool = False) -> None:
        self._late_s = late_s
        self._always = always
        self.answered_at = 0.0

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Bridge.call`."""
        result = await super().call(function, *args)
        claimed = result[0] if isinstance(result, tuple) else result
        if getattr(claimed, "claims", ()) and (self._always or not self.answered_at):
            with trio.CancelScope(shield=True):
                await trio.sleep(self._late_s)
            self.answered_at = trio.current_time()
        return result


class Runs:
    """When a task was begun, and by which attempt."""

    def __init__(self) -> None:
        self.begun: list[tuple[float, int]] = []


@asynccontextmanager
async def working(bridge: LateBridge) -> AsyncIterator[tuple[StreamQ, Handle[None], Runs]]:
    """Let one worker run one task."""
    app = StreamQ.on(MemoryStore(trio_time), bridge, lease_s=LEASE_S, safety_scan_s=None)
    runs = Runs()

    @app.task
    async def job() -> None:
        runs.begun.append((trio.current_time(), current_task().attempt))
        await trio.sleep(100)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=1, task_status=task_status))
        yield app, await job.put(), runs
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("late_s", [TOO_LATE_S + 0.1, TRUSTED_S - 0.002, TRUSTED_S + 0.1, LEASE_S - 0.1])
async def test_claim_that_is_answered_when_its_lease_is_all_but_over_is_given_back_at_once(late_s: float) -> None:
    bridge = LateBridge(late_s)
    async with working(bridge) as (app, handle, runs):
        await handle.wait()
    ((begun_at, attempt),) = runs.begun
    assert begun_at - bridge.answered_at < 0.1, "its lease was not waited for"
    assert attempt == 1, "an attempt that was not begun is not counted"
    assert app.journal.counts["release"] == 1
    assert app.journal.counts["leases no longer trusted"] == 0


async def test_claim_that_is_answered_in_time_to_be_extended_runs() -> None:
    bridge = LateBridge(TOO_LATE_S - 0.1)
    async with working(bridge) as (_, handle, runs):
        await handle.wait()
    assert runs.begun == [(bridge.answered_at, 1)]


async def test_claim_that_is_answered_after_another_holder_has_begun_changes_nothing() -> None:
    bridge = LateBridge(LEASE_S + 5)
    async with working(bridge) as (app, handle, _):
        await trio.sleep(LEASE_S + 1)
        document = cast(MemoryStore, app.store).documents[handle.id]
        assert document["status"] == "ready"
        document |= {"status": "running", "claim_id": b"another's", "lease_until": trio_time()}
        await trio.sleep(10)
        assert bridge.answered_at
        assert document["claim_id"] == b"another's"


@pytest.fixture
def one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let threads, of which there are none, read trio's clock."""
    monkeypatch.setattr(clock, "thread_now", trio.current_time)


@pytest.mark.usefixtures("one_clock")
async def test_caller_is_handed_no_claim_that_is_all_but_over() -> None:
    app = StreamQ.on(MemoryStore(trio_time), LateBridge(TRUSTED_S - 0.002), lease_s=LEASE_S)
    async with app:
        queue = app.queue("q")
        await queue.put(1)
        assert await queue.claim() is None
        await run_first_attempt(await queue.claim(wait_s=1))


@pytest.mark.usefixtures("one_clock")
async def test_caller_that_waits_is_handed_the_task_whose_first_claim_came_too_late() -> None:
    app = StreamQ.on(MemoryStore(trio_time), LateBridge(TRUSTED_S - 0.002), lease_s=LEASE_S)
    async with app:
        queue = app.queue("q")
        await queue.put(1)
        await run_first_attempt(await queue.claim(wait_s=60))
        assert app.journal.counts["release"] == 1


async def run_first_attempt(task: Task | None) -> None:
    assert task is not None
    assert task.info.attempt == 1
    await in_its_block(task)


def jump(seconds: float) -> None:
    """Let time pass in which nothing here gets its turn."""
    cast(MockClock, trio.lowlevel.current_clock()).jump(seconds)


class Begun:
    """Tasks as they are begun: each writes down whether its lease lasts, the first of them until all are over."""

    def __init__(self, app: StreamQ) -> None:
        self.lasted: list[bool] = []
        self._documents = cast(MemoryStore, app.store).documents

    def note(self, id: ObjectId) -> None:
        """One is begun: what a handler that blocks, or a process that is frozen, does to those behind it."""
        self.lasted.append(self._documents[id]["lease_until"] > trio_time())
        if len(self.lasted) == 1:
            jump(LEASE_S)


async def test_handler_is_not_begun_once_its_lease_is_over() -> None:
    app = memory_app(lease_s=LEASE_S)
    begun = Begun(app)

    @app.task
    async def job() -> None:
        begun.note(current_task().id)

    async with app:
        handles = [await job.put() for _ in range(AT_ONCE)]
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: app.work(concurrency=AT_ONCE, task_status=task_status))
            for handle in handles:
                await handle.result()
            nursery.cancel_scope.cancel()
    assert all(begun.lasted)
    assert app.journal.counts["leases no longer trusted"] == 1


async def test_task_of_a_loop_is_not_handed_out_once_its_lease_is_over() -> None:
    app = memory_app(lease_s=LEASE_S)
    begun = Begun(app)

    async def loop(tasks: Tasks) -> None:
        async for task in tasks:
            async with task:
                begun.note(task.info.id)

    async with app:
        queue = app.queue("q")
        handles = [await queue.put(number) for number in range(AT_ONCE)]
        async with queue.consume(prefetch=AT_ONCE) as tasks, trio.open_nursery() as nursery:
            await trio.sleep(1)  # they lie there
            for _ in handles:
                nursery.start_soon(loop, tasks)
            for handle in handles:
                await handle.wait()
            nursery.cancel_scope.cancel()
    assert all(begun.lasted)


async def test_block_of_a_task_whose_lease_is_over_is_not_entered() -> None:
    app = memory_app(lease_s=LEASE_S)
    async with app:
        queue = app.queue("q")
        await queue.put(1)
        task = await queue.claim()
        assert task is not None
        jump(LEASE_S)
        entered = False
        with pytest.raises(LeaseLost):
            async with task:
                entered = True
        assert not entered


class SlowBeat(InlineBridge):
    """The first extension is answered when `answer` is set."""

    def __init__(self) -> None:
        self.asked, self.answer = trio.Event(), trio.Event()

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Bridge.call`."""
        result = await super().call(function, *args)
        if function.__name__ == "extend" and not self.asked.is_set():
            self.asked.set()
            with trio.CancelScope(shield=True):
                await self.answer.wait()
        return result

    async def come_late(self) -> None:
        """Let the answer come when the lease is trusted no more, in the same moment in which that can be seen."""
        await self.asked.wait()
        self.answer.set()
        jump(TRUSTED_S - LEASE_S / BEATS_A_LEASE + 1)


TRIALS: Final = range(6)
"""In which order what happens at once is seen to is by chance."""


@pytest.mark.parametrize("trial", TRIALS)
async def test_task_that_a_loop_passed_over_is_handed_out_later(trial: int) -> None:
    bridge = SlowBeat()
    app = StreamQ.on(MemoryStore(trio_time), bridge, lease_s=LEASE_S, safety_scan_s=None)
    begun: list[int] = []

    async def loop(tasks: Tasks) -> None:
        async for task in tasks:
            async with task:
                begun.append(task.payload)
                if len(begun) == 1:
                    await bridge.come_late()

    async with app:
        queue = app.queue("q")
        handles = [await queue.put(number) for number in range(2)]
        async with queue.consume(prefetch=2) as tasks, trio.open_nursery() as nursery:
            await trio.sleep(1)  # they lie there
            nursery.start_soon(loop, tasks)
            with trio.move_on_after(3_600):
                await handles[1].wait()
            nursery.cancel_scope.cancel()
    assert 1 in begun


@pytest.mark.parametrize("trial", TRIALS)
async def test_task_whose_block_was_refused_is_not_held_for_ever(trial: int) -> None:
    bridge = SlowBeat()
    app = StreamQ.on(MemoryStore(trio_time), bridge, lease_s=LEASE_S, safety_scan_s=None)
    async with app:
        queue = app.queue("q")
        await queue.put(1)
        task = await queue.claim()
        assert task is not None
        await bridge.come_late()
        with pytest.raises(LeaseLost):
            await in_its_block(task)
        again = await queue.claim(wait_s=3_000)
        assert again is not None, "it is extended for ever, and nobody runs it"
        await in_its_block(again)


async def in_its_block(task: Task) -> None:
    async with task:
        pass


@pytest.mark.parametrize("late_s", [TOO_LATE_S - 1, TOO_LATE_S + 1, TRUSTED_S - 1])
async def test_tasks_are_run_though_all_claims_take_most_of_a_lease(late_s: float) -> None:
    app = StreamQ.on(MemoryStore(trio_time), LateBridge(late_s, always=True), lease_s=LEASE_S, safety_scan_s=None)

    done = trio.Event()

    @app.task
    async def job() -> None:
        done.set()

    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=1, task_status=task_status))
        await job.put()
        with trio.move_on_after(100 * LEASE_S):
            await done.wait()
        nursery.cancel_scope.cancel()
    assert done.is_set()
