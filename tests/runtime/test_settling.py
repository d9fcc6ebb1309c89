"""Settling: what one settlement meets is its own holder's affair, and nobody waits for what cannot come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, TypeVarTuple, cast

import pytest
import trio
import trio.testing

from streamq import Retry, StoreError, StreamQ
from streamq.bridge import InlineBridge
from streamq.core.settlement import Settlement, Verdict
from streamq.store.memory import MemoryStore
from streamq.testing import trio_time

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LEASE_S = 30.0


class RaisingStore(MemoryStore):
    """A store that cannot settle a result "bad" and says so by an error, about the whole call, nothing written."""

    def settle(self, settlements: Sequence[Settlement]) -> list[Verdict]:
        if any(one.result == "bad" for one in settlements):
            raise StoreError("cannot settle tasks: document failed validation")
        return super().settle(settlements)


class RefusingStore(MemoryStore):
    """A store that refuses a result "bad" for good: its verdict is about that one, and the task stays held."""

    def settle(self, settlements: Sequence[Settlement]) -> list[Verdict]:
        return [
            "refused" if one.result == "bad" else super(RefusingStore, self).settle([one])[0] for one in settlements
        ]


STORES = pytest.mark.parametrize("make", [RaisingStore, RefusingStore], ids=["raised", "verdict"])


class GatedBridge(InlineBridge):
    """A bridge on which settlements wait for `gate`, as in a thread: they are sent, and cannot be cancelled."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.settled: list[int] = []

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if getattr(function, "__name__", "") == "settle":
            self.settled.append(len(cast(Any, args)[0]))
            await trio.lowlevel.checkpoint_if_cancelled()
            with trio.CancelScope(shield=True):
                await self.gate.wait()
        return await super().call(function, *args)


def statuses(store: MemoryStore) -> list[str]:
    return [document["status"] for document in store.documents.values()]


@STORES
async def test_refused_settlement_is_told_to_its_holder_as_a_store_error(make: Callable[..., MemoryStore]) -> None:
    """Whoever settles hears that it was not written, and that it was not the lease."""
    app = StreamQ.on(make(trio_time), InlineBridge(), lease_s=LEASE_S)
    async with app:
        await app.queue("q").put(1)
        async with app.queue("q").consume() as tasks:
            task = await anext(tasks)
            with pytest.raises(StoreError):
                await task.succeed("bad")


@STORES
async def test_refused_settlement_drops_its_claim_so_that_the_lease_can_end(make: Callable[..., MemoryStore]) -> None:
    """Held and extended for ever, the task would be lost to everybody."""
    store = make(trio_time)
    app = StreamQ.on(store, InlineBridge(), lease_s=LEASE_S, retry=Retry(max_attempts=2, first_s=0))

    @app.task
    async def job() -> str:
        return "bad"

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        await job.put()
        await trio.sleep(1)
        assert len(app.services().holdings) == 0
        await trio.sleep(3 * LEASE_S)
        assert statuses(store) == ["failed"]  # both attempts ended with their leases
        nursery.cancel_scope.cancel()


@STORES
async def test_other_settlements_of_the_batch_are_written_when_one_is_refused(
    make: Callable[..., MemoryStore],
) -> None:
    """One task at fault costs the others of its batch nothing."""
    store, bridge = make(trio_time), GatedBridge()
    app = StreamQ.on(store, bridge, lease_s=LEASE_S)

    @app.task
    async def job(result: str) -> str:
        return result

    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=8, task_status=task_status))
        for result in ("first", "a", "bad", "b", "c"):
            await job.put(result)
            await trio.testing.wait_all_tasks_blocked()
        bridge.gate.set()
        await trio.sleep(1)
        assert bridge.settled[:2] == [1, 4]  # the one at fault was in the middle of a batch
        assert sorted(statuses(store)) == ["running", "succeeded", "succeeded", "succeeded", "succeeded"]
        nursery.cancel_scope.cancel()


@STORES
async def test_refused_settlement_does_not_keep_a_loop_from_stopping(make: Callable[..., MemoryStore]) -> None:
    """Stopping asks for nothing that was refused before: it ends at once."""
    app = StreamQ.on(make(trio_time), InlineBridge(), lease_s=LEASE_S)
    async with app:
        await app.queue("q").put(1)
        with trio.move_on_after(10):
            async with app.queue("q").consume() as tasks:
                async for task in tasks:
                    with pytest.raises(StoreError):
                        await task.succeed("bad")
        assert trio.current_time() == pytest.approx(10)


@STORES
async def test_refused_settlement_of_a_task_at_a_stop_does_not_keep_the_worker_from_stopping(
    make: Callable[..., MemoryStore],
) -> None:
    """A worker whose last settlement is refused has nothing left to wait for."""
    bridge = GatedBridge()
    app = StreamQ.on(make(trio_time), bridge, lease_s=LEASE_S)

    @app.task
    async def job() -> str:
        return "bad"

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        await job.put()
        await trio.testing.wait_all_tasks_blocked()
        assert bridge.settled == [1]
        nursery.cancel_scope.cancel()
        bridge.gate.set()
    assert trio.current_time() == pytest.approx(0)


class SlowAnswers(InlineBridge):
    """A bridge on which settlements are applied at once and answered `answer_s` later. It counts beats, a bounded
    number of which may be sent."""

    MOST_BEATS = 1_000

    def __init__(self, answer_s: float) -> None:
        self.beats = 0
        self._answer_s = answer_s

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        name = getattr(function, "__name__", "")
        self.beats += name == "extend"
        if self.beats > self.MOST_BEATS:
            raise OverflowError("beats without end")
        result = await super().call(function, *args)
        if name == "settle":
            with trio.CancelScope(shield=True):
                await trio.sleep(self._answer_s)
        return result


async def settle_with_slow_answer() -> tuple[StreamQ, SlowAnswers]:
    """Settle one task whose answer comes half a lease later, after a beat that finds it settled."""
    bridge = SlowAnswers(LEASE_S / 2)
    app = StreamQ.on(MemoryStore(trio_time), bridge, lease_s=LEASE_S)
    async with app:
        handle = await app.queue("q").put(1)
        async with app.queue("q").consume() as tasks, await anext(tasks) as task:
            await task.succeed(5)
        assert await handle.result() == 5
    return app, bridge


async def test_beat_loses_no_claim_whose_settlement_is_on_its_way() -> None:
    """The beat finds the task gone because its own settlement was applied: the settler hears what became of it."""
    app, _ = await settle_with_slow_answer()
    assert app.journal.counts["lease lost"] == 0


async def test_beat_is_not_repeated_without_a_pause_while_a_settlement_is_on_its_way() -> None:
    """What it finds gone stays due: asking again at once would ask for as long as the answer takes."""
    _, bridge = await settle_with_slow_answer()
    assert bridge.beats <= 200
