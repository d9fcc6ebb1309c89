"""Leases: extended while the handler runs, lost when they are gone, taken back when their holder is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar, TypeVarTuple, cast

import pytest
import trio
import trio.testing
from bson import ObjectId

from streamq import (
    Handle,
    Handler,
    LeaseLost,
    OptionInvalid,
    Retry,
    StoreUnavailable,
    StreamQ,
    TaskFailed,
    current_task,
    transaction,
)
from streamq.bridge import InlineBridge
from streamq.core.claim import Ask, Claim
from streamq.core.document import TaskDocument
from streamq.core.member import Member
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@asynccontextmanager
async def working(app: StreamQ, slots: int = 4) -> AsyncIterator[None]:
    """Enter the app and let it work on all its queues for the body of the block."""
    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=slots, task_status=task_status))
        yield
        nursery.cancel_scope.cancel()


def memory(app: StreamQ) -> MemoryStore:
    return cast(MemoryStore, app.store)


def stored(app: StreamQ, handle: Handle[Any]) -> TaskDocument:
    return memory(app).documents[handle.id]


def take_over(document: TaskDocument, lease_s: float = 1_000) -> None:
    """Put the task into other hands, as a scheduler and another worker would after a pause of ours."""
    document["claim_id"] = b"somebody else's."
    document["lease_until"] = trio_time() + timedelta(seconds=lease_s)
    document["attempt"] += 1


async def test_handler_that_runs_longer_than_its_lease_keeps_it() -> None:
    app = memory_app(lease_s=10)
    began: list[float] = []

    @app.task
    async def long() -> str:
        began.append(trio.current_time())
        await trio.sleep(1_000)
        return "done"

    async with working(app):
        assert await (await long.put()).result() == "done"
    assert len(began) == 1
    assert app.journal.counts["lease lost"] == 0


async def test_lease_is_never_closer_to_its_end_than_two_failed_beats_allow() -> None:
    """Extended every third of a lease: at any moment more than half of it is left."""
    app = memory_app(lease_s=30)
    left: list[float] = []

    @app.task
    async def long() -> None:
        for _ in range(300):
            await trio.sleep(1)
            left.append((stored(app, handle)["lease_until"] - trio_time()).total_seconds())

    async with app:
        handle = await long.put()
    async with working(app):
        await handle.wait()
    assert min(left) >= 19.9


async def test_handler_whose_lease_was_taken_over_is_cancelled_and_changes_nothing() -> None:
    app = memory_app(lease_s=30)
    cancelled_at: list[float] = []

    @app.task
    async def long() -> None:
        try:
            await trio.sleep(10_000)
        finally:
            cancelled_at.append(trio.current_time())

    async with working(app):
        handle = await long.put()
        await trio.testing.wait_all_tasks_blocked()
        take_over(stored(app, handle))
        taken_at = trio.current_time()
        await trio.sleep(15)
        assert len(cancelled_at) == 1
        assert cancelled_at[0] - taken_at <= 10  # the next beat, a third of the lease later
    assert stored(app, handle)["status"] == "running"
    assert stored(app, handle)["claim_id"] == b"somebody else's."
    assert stored(app, handle)["attempt"] == 2
    assert app.journal.counts["lease lost"] == 1


async def test_handler_that_swallows_the_cancellation_of_a_lost_lease_settles_nothing() -> None:
    app = memory_app(lease_s=30)

    @app.task
    async def stubborn() -> str:
        with trio.CancelScope() as scope:
            await trio.sleep(12)
            scope.cancel()
        with trio.move_on_after(60, shield=True):
            await trio.sleep_forever()
        return "mine"

    async with working(app):
        handle = await stubborn.put()
        await trio.testing.wait_all_tasks_blocked()
        take_over(stored(app, handle))
        await trio.sleep(100)
    assert stored(app, handle)["status"] == "running"
    assert "result" not in stored(app, handle)
    assert app.journal.counts["succeed"] == 0


async def test_settlement_of_a_task_taken_over_since_the_last_beat_changes_nothing() -> None:
    app = memory_app(lease_s=30)

    @app.task
    async def quick() -> str:
        await trio.sleep(2)
        return "mine"

    async with working(app):
        handle = await quick.put()
        await trio.testing.wait_all_tasks_blocked()
        take_over(stored(app, handle))
        await trio.sleep(5)
    assert stored(app, handle)["status"] == "running"
    assert app.journal.counts["lease lost"] == 1


async def test_claims_that_cannot_be_extended_are_dropped_before_their_lease_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No successful beat for a lease less the margin: the handler stops while the task is still surely ours."""
    app = memory_app(lease_s=30, retry=Retry(max_attempts=5, first_s=0))
    ended: list[float] = []
    leases: list[float] = []

    @app.task
    async def long() -> None:
        if ended:
            return
        try:
            await trio.sleep(10_000)
        finally:
            ended.append(trio.current_time())
            leases.append((stored(app, handle)["lease_until"] - trio_time()).total_seconds())

    def unavailable(claims: Sequence[Claim]) -> list[ObjectId]:
        raise StoreUnavailable("no server")

    monkeypatch.setattr(memory(app), "extend", unavailable)
    async with app:
        handle = await long.put()
    async with working(app):
        began_at = trio.current_time()
        await handle.wait()
        assert stored(app, handle)["attempt"] == 2
    assert ended == [pytest.approx(began_at + 25, abs=0.01)]
    assert leases[0] == pytest.approx(5, abs=0.01)
    assert app.journal.counts["store error"] >= 2


async def test_claims_survive_beats_that_fail_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    app = memory_app(lease_s=30)
    real = memory(app).extend
    failures: list[float] = []

    def extend(claims: Sequence[Claim]) -> list[ObjectId]:
        if trio.current_time() - began_at < 23:
            failures.append(trio.current_time())
            raise StoreUnavailable("no server")
        return real(claims)

    @app.task
    async def long() -> str:
        await trio.sleep(500)
        return "done"

    monkeypatch.setattr(memory(app), "extend", extend)
    async with working(app):
        began_at = trio.current_time()
        handle = await long.put()
        assert await handle.result() == "done"
    assert failures
    assert stored(app, handle)["attempt"] == 1


class HeldBeats(InlineBridge):
    """A bridge on which one call of `extend` reaches the store only when it is let go."""

    def __init__(self) -> None:
        self.hold = False
        self.let_go = trio.Event()

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if self.hold and getattr(function, "__name__", "") == "extend":
            self.hold = False
            with trio.CancelScope(shield=True):
                await self.let_go.wait()
        return await super().call(function, *args)


async def test_extending_for_longer_holds_although_a_beat_with_the_old_lease_lands_after_it() -> None:
    bridge = HeldBeats()
    app = StreamQ.on(MemoryStore(trio_time), bridge, lease_s=30)
    async with app, app.queue("q").consume(prefetch=0) as tasks:
        handle = await app.queue("q").put(1)
        async for task in tasks:
            async with task:
                bridge.hold = True
                await trio.sleep(11)  # a beat is on its way, with 30 s
                assert not bridge.hold
                await task.extend(600)
                bridge.let_go.set()  # it lands after the extension
                await trio.sleep(400)
                assert stored(app, handle)["lease_until"] > trio_time()
                assert stored(app, handle)["attempt"] == 1
            break
    assert stored(app, handle)["status"] == "succeeded"


async def test_extend_of_a_lost_lease_says_so() -> None:
    app = memory_app(lease_s=30)
    async with app, app.queue("q").consume(prefetch=0) as tasks:
        handle = await app.queue("q").put(1)
        async for task in tasks:
            take_over(stored(app, handle))
            with pytest.raises(LeaseLost, match="extend"):
                await task.extend()
            assert task.is_lost
            break


# --- taking back -----------------------------------------------------------------------------------------------


def claim_as_a_dead_process(app: StreamQ, lease_s: float) -> None:
    """Claim everything of the default queue for a process that will never be heard of again."""
    ask = Ask("default", 10, b"a dead process'.", lease_s, "dead")
    assert memory(app).claim(ask).claims


async def test_lease_of_a_dead_process_is_taken_back_exactly_when_it_ends() -> None:
    app = memory_app(safety_scan_s=None)
    began: list[float] = []

    @app.task
    async def note() -> None:
        began.append(trio.current_time())

    async with app:
        handle = await note.put()
        claim_as_a_dead_process(app, lease_s=20)
        ends_at = trio.current_time() + 20
    async with working(app):
        await handle.wait()
    assert began == [pytest.approx(ends_at, abs=0.003)]
    assert stored(app, handle)["attempt"] == 2
    assert [error["type"] for error in stored(app, handle)["errors"]] == ["LeaseExpired"]


async def test_short_lease_of_a_process_that_came_later_is_taken_back_in_time() -> None:
    """Claims are not on the stream: the scheduler learns from the newcomer's row how soon one may end."""
    app = memory_app(safety_scan_s=None, lease_s=86_400)

    @app.task
    async def note() -> float:
        return trio.current_time()

    async with working(app):
        await (await note.put()).result()  # or waiting for a result would open the stream anew, and look
        await trio.sleep(1_051)  # just after its own beat, the next of which would tell it too
        memory(app).beat(Member("late", "host", 1, ("default",), 1, 5.0))
        new = note.new()
        memory(app).put([new])  # claimed in the same step: the worker here has no chance
        claim_as_a_dead_process(app, lease_s=5)
        ends_at = trio.current_time() + 5
        assert 0 <= await app.handle(new.id).result() - ends_at <= 5


async def test_lease_is_the_handlers_own_else_the_queues_else_the_apps() -> None:
    app = memory_app(lease_s=600, safety_scan_s=None)
    leases: dict[str, float] = {}

    async def note() -> None:
        document = memory(app).documents[current_task().id]
        leases[document["task"] or ""] = (document["lease_until"] - document["started_at"]).total_seconds()

    for name, queue, lease_s in (("own", "a", 5.0), ("queues", "a", None), ("apps", "b", None), ("long", "b", 900.0)):
        app.task(name=name, queue=queue, lease_s=lease_s)(note)
    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(lease_s={"a": 60}, task_status=task_status))
        (row,) = memory(app).members.values()
        assert row.lease_s == 5.0, "who takes leases back must know how soon one may end"
        for handling in app.handlers.values():
            handler: Handler[[], None, Any] = Handler(note, handling, app)
            await (await handler.put()).result()
        nursery.cancel_scope.cancel()
    assert leases == {"own": 5.0, "queues": 60.0, "apps": 600.0, "long": 900.0}


async def test_handler_keeps_a_lease_of_its_own_while_it_runs() -> None:
    app = memory_app(lease_s=10_000)

    @app.task(lease_s=2)
    async def long() -> int:
        await trio.sleep(100)
        return current_task().attempt

    async with working(app):
        assert await (await long.put()).result() == 1


async def test_shorter_lease_of_a_second_worker_in_the_process_is_told_at_once() -> None:
    app = memory_app(lease_s=600, safety_scan_s=None)

    @app.task
    async def note() -> None: ...

    async with working(app), trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(lease_s=3, task_status=task_status))
        assert [row.lease_s for row in memory(app).members.values()] == [3.0]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("lease_s", "named"), [(0.5, "lease_s"), ("5", "lease_s"), ({"defalt": 5}, "lease_s"), ({"default": 0}, "lease_s")]
)
async def test_lease_that_is_none_is_refused(lease_s: Any, named: str) -> None:
    app = memory_app()

    @app.task
    async def note() -> None: ...

    async with app:
        with pytest.raises(OptionInvalid, match=named):
            await app.work(lease_s=lease_s)
    if not isinstance(lease_s, dict):
        with pytest.raises(OptionInvalid, match=named):
            app.task(name="other", lease_s=lease_s)(note)


async def test_lease_that_ends_on_the_last_attempt_fails_the_task_with_that_reason() -> None:
    app = memory_app(retry=Retry(max_attempts=1))
    ran: list[int] = []

    @app.task
    async def note() -> None:
        ran.append(1)

    async with app:
        handle = await note.put()
        claim_as_a_dead_process(app, lease_s=20)
    async with working(app):
        with pytest.raises(TaskFailed, match="LeaseExpired"):
            await handle.result()
    assert not ran


class LateAnswers(InlineBridge):
    """A bridge on which an extension takes effect at once, and its answer comes `late_s` later."""

    late_s = 0.0

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        answer = await super().call(function, *args)
        if getattr(function, "__name__", "") == "extend":
            late_s, self.late_s = self.late_s, 0.0
            with trio.CancelScope(shield=True):
                await trio.sleep(late_s)
        return answer


async def test_task_given_up_while_its_lease_was_made_long_for_a_transaction_waits_for_an_ordinary_one() -> None:
    """It had been extended, but its holder had stopped to trust in that: nobody was left for the long lease."""
    bridge = LateAnswers()
    app = StreamQ.on(MemoryStore(trio_time), bridge, lease_s=30, safety_scan_s=None)
    began_at: list[float] = []

    @app.task
    async def pay() -> None:
        began_at.append(trio.current_time())
        if len(began_at) == 1:
            bridge.late_s = 40.0
            async with transaction():
                pass

    async with working(app):
        handle = await pay.put()
        await handle.result()
    assert app.journal.counts["leases no longer trusted"] == 1
    assert stored(app, handle)["attempt"] == 2
    assert began_at[1] - began_at[0] < 40 + 30 + 5


async def test_two_schedulers_take_a_lease_back_once() -> None:
    first = memory_app(safety_scan_s=None)
    second = StreamQ.on(first.store, InlineBridge(), safety_scan_s=None)
    began: list[int] = []

    @first.task
    async def note() -> None:
        began.append(1)

    second.task(note.function)
    async with first:
        handle = await note.put()
        claim_as_a_dead_process(first, lease_s=20)
    async with working(first), working(second):
        await trio.sleep(100)
    assert began == [1]
    assert stored(first, handle)["attempt"] == 2
