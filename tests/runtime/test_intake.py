"""The intake: the order of starts, and how long what was claimed ahead may wait here."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple

import msgspec
import pytest
import trio
import trio.testing
from bson import ObjectId

from streamq import StreamQ
from streamq.bridge import InlineBridge
from streamq.core.claim import Ask
from streamq.core.new_task import NewTask
from streamq.core.rivals import FEW
from streamq.core.wake import Wake
from streamq.runtime import clock
from streamq.runtime.held import Held
from streamq.runtime.intake import HOARD_S, Early, Intake
from streamq.runtime.wants import Wants
from streamq.store.contract import Claimed, Taking
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Takers:
    """An idle intake with takers that wait, and what they got."""

    def __init__(self, app: StreamQ, intake: Intake) -> None:
        self.app = app
        self.store: Any = app.store
        self.intake = intake
        self.got: list[ObjectId] = []

    async def take(self) -> None:
        held: Held = await self.intake.take()
        self.got.append(held.claim.id)

    def put_unheard(self) -> NewTask:
        """Put a task of which nobody tells."""
        new = self.app.queue("q").new(1)
        self.store.put([new])
        return new


def wake_of(new: NewTask) -> Wake:
    return Wake("ready", new.id, "q", is_new=True)


@asynccontextmanager
async def waiting_takers(count: int, spare: int | None = 0) -> AsyncIterator[Takers]:
    async with memory_app() as app, trio.open_nursery() as nursery:
        services = app.services()
        takers = Takers(app, services.intake(Wants(queue="q", worker="w", lease_s=30, spare=spare)))
        nursery.start_soon(takers.intake.run)
        for _ in range(count):
            nursery.start_soon(takers.take)
        await trio.testing.wait_all_tasks_blocked()
        yield takers
        nursery.cancel_scope.cancel()


# --- order -----------------------------------------------------------------------------------------------------


async def test_feed_claims_ahead_when_takers_wait_and_nothing_came_before() -> None:
    """The control of the two below: otherwise a slot is on offer."""
    async with waiting_takers(2) as takers:
        early = takers.intake.claim_early(wake_of(takers.put_unheard()))
        assert early is not None
        takers.intake.take_early(early)


async def test_task_that_may_start_once_is_not_claimed_by_the_thread() -> None:
    """A loop that stands still would not begin it, and its only attempt would be used up."""
    async with waiting_takers(2) as takers:
        wake = msgspec.structs.replace(wake_of(takers.put_unheard()), durable=True)
        assert takers.intake.claim_early(wake) is None


async def test_hint_withdraws_the_offers_so_that_nothing_starts_ahead_of_it() -> None:
    """What the feed reads next came later: with a free slot left it must not be claimed first."""
    async with waiting_takers(2) as takers:
        first, second = takers.put_unheard(), takers.put_unheard()
        takers.intake.hint(wake_of(first))
        assert takers.intake.claim_early(wake_of(second)) is None
        takers.intake.hint(wake_of(second))
        await trio.testing.wait_all_tasks_blocked()
        assert takers.got == [first.id, second.id]


async def test_scan_withdraws_the_offers_so_that_nothing_starts_ahead_of_what_it_finds() -> None:
    """What the look at the queue will find came before what the feed reads next."""
    async with waiting_takers(2) as takers:
        first, second = takers.put_unheard(), takers.put_unheard()
        takers.intake.scan()
        assert takers.intake.claim_early(wake_of(second)) is None
        await trio.testing.wait_all_tasks_blocked()
        assert takers.got == [first.id, second.id]


async def test_slot_of_a_taker_that_was_cancelled_is_not_claimed_for_in_the_same_moment() -> None:
    """The feed's thread may read a wake before the claimer has its turn: nobody would take what it obtained."""
    early: list[Early | None] = []

    async def leave(takers: Takers) -> None:
        try:
            await takers.take()
        finally:
            early.append(takers.intake.claim_early(wake_of(takers.put_unheard())))

    async with waiting_takers(0) as takers:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(leave, takers)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
    assert early == [None]


async def test_slots_are_offered_again_when_what_withdrew_them_has_been_claimed() -> None:
    """Withdrawing is for the moment: the next wake finds the remaining slot on offer."""
    async with waiting_takers(2) as takers:
        takers.intake.hint(wake_of(takers.put_unheard()))
        await trio.testing.wait_all_tasks_blocked()
        early = takers.intake.claim_early(wake_of(takers.put_unheard()))
        assert early is not None
        takers.intake.take_early(early)


class Scheduled(trio.abc.Instrument):
    """Which tasks are woken."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        self.names.append(task.name.rpartition(".")[2])


async def test_nobody_but_its_taker_is_woken_for_what_the_feed_has_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trio runs tasks that are woken together in any order: each would come before the handler every other time."""
    scheduled = Scheduled()
    # A claim is counted from when it was sent, by real time, and trio's stands still here: the second could come first.
    monkeypatch.setattr(clock, "thread_now", lambda: 0.0)
    async with waiting_takers(2, spare=None) as takers:
        for _ in range(2):  # the first lease is news for who extends them
            scheduled.names.clear()
            early = takers.intake.claim_early(wake_of(takers.put_unheard()))
            assert early is not None
            trio.lowlevel.add_instrument(scheduled)
            takers.intake.take_early(early)
            trio.lowlevel.remove_instrument(scheduled)
            await trio.testing.wait_all_tasks_blocked()
    assert scheduled.names == ["take"]


async def test_slot_is_offered_again_when_the_feed_has_claimed_nothing_for_it() -> None:
    async with waiting_takers(1) as takers:
        early = takers.intake.claim_early(Wake("ready", ObjectId(), "q", is_new=True))
        assert early is not None
        takers.intake.take_early(early)
        await trio.testing.wait_all_tasks_blocked()
        assert takers.intake.takers.offer.left == 1


async def test_what_the_feed_has_claimed_for_a_taker_that_left_meanwhile_goes_back() -> None:
    async with waiting_takers(0, spare=None) as takers:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(takers.take)
                await trio.testing.wait_all_tasks_blocked()
                early = takers.intake.claim_early(wake_of(takers.put_unheard()))
                assert early is not None
                scope.cancel()
                takers.intake.take_early(early)
        await trio.sleep(2 * HOARD_S)
        assert takers.got == []
        assert await takers.app.counts() == {"q": {"ready": 1}}


async def test_error_past_the_store_in_the_feed_is_raised_by_the_claimer_and_gives_its_slot_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault of ours must be heard: swallowed in the feed's thread it would cost a slot without a word."""

    def broken(ask: Any) -> Any:
        raise ZeroDivisionError

    app = memory_app()
    intake: Intake | None = None
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with app:
            intake = app.services().intake(Wants(queue="q", worker="w", lease_s=30, spare=0))

            async def offer() -> None:
                await trio.testing.wait_all_tasks_blocked()
                monkeypatch.setattr(app.store, "claim", broken)
                early = intake.claim_early(Wake("ready", ObjectId(), "q", is_new=True))
                assert early is not None
                intake.take_early(early)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(intake.take)
                nursery.start_soon(offer)
                await intake.run()
    assert intake is not None
    assert intake.takers.offer.out == 0


# --- what was claimed ahead ------------------------------------------------------------------------------------


CLAIM_S = 0.05


class SlowClaims(InlineBridge):
    """A bridge on which a claim takes a while, so that workers claim ahead."""

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        result = await super().call(function, *args)
        if getattr(function, "__name__", "") == "claim":
            with trio.CancelScope(shield=True):
                await trio.sleep(CLAIM_S)
        return result


class Pair:
    """Two workers on one store; the first meets a slow task after many quick ones, and the other comes then."""

    def __init__(self) -> None:
        self.store = MemoryStore(trio_time)
        self.ran = {"first": 0, "other": 0}
        self.slow_began = trio.Event()
        self.first, self.other = self._app("first"), self._app("other")

    def _app(self, name: str) -> StreamQ:
        app = StreamQ.on(self.store, SlowClaims(), safety_scan_s=None, lease_s=30)

        @app.task(queue="q", name="job")
        async def job(run_s: float) -> None:
            self.ran[name] += 1
            if run_s > 1:
                self.slow_began.set()
            await trio.sleep(run_s)

        self.job = job
        return app

    def put(self) -> None:
        runs_s = [0.001] * 500 + [600.0] + [0.001] * 200
        self.store.put([self.job.new(run_s) for run_s in runs_s])

    def running(self) -> int:
        return sum(document["status"] == "running" for document in self.store.documents.values())


@asynccontextmanager
async def pair_with_a_slow_task() -> AsyncIterator[Pair]:
    pair = Pair()
    pair.put()
    async with pair.first, pair.other, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: pair.first.work({"q": 1}, task_status=task_status))
        await pair.slow_began.wait()
        await trio.sleep(0.2)
        assert pair.running() > 10, "tasks wait behind the slow one, or this shows nothing"
        await nursery.start(lambda task_status: pair.other.work({"q": 4}, task_status=task_status))
        yield pair
        nursery.cancel_scope.cancel()


async def test_tasks_claimed_ahead_are_run_by_another_worker_when_their_takers_turn_slow() -> None:
    """Held back behind a slow handler they would wait for it while others idle."""
    async with pair_with_a_slow_task() as pair:
        await trio.sleep(HOARD_S + 20)
        assert pair.running() == 1
        assert pair.ran == {"first": 501, "other": 200}


async def test_tasks_claimed_ahead_and_given_back_are_not_counted_as_attempted() -> None:
    """They have not started: giving them back uses up no attempt."""
    async with pair_with_a_slow_task() as pair:
        await trio.sleep(HOARD_S + 20)
        assert {one["attempt"] for one in pair.store.documents.values()} == {1}


async def test_tasks_that_a_loop_asked_to_wait_here_stay_when_it_is_slow() -> None:
    """A fixed `prefetch` is its user's own choice."""
    app = memory_app()
    async with app:
        await app.queue("q").put_many(range(5))
        async with app.queue("q").consume(prefetch=3) as tasks:
            await anext(tasks)
            await trio.sleep(100 * HOARD_S)
            assert await app.counts() == {"q": {"running": 4, "ready": 1}}


async def test_slots_are_offered_in_full_beside_a_claim_of_the_feed_that_is_out() -> None:
    async with waiting_takers(3) as takers:
        offer = takers.intake.takers.offer
        assert offer.take()
        takers.intake.look()  # decides anew, and offers what is left
        await trio.testing.wait_all_tasks_blocked()
        assert [offer.take() for _ in range(3)] == [True, True, False]
        for _ in range(3):
            offer.back()


class Raced(MemoryStore):
    """Of the first claims others obtain all; it notes when each is made."""

    def __init__(self, lost_claims: int) -> None:
        super().__init__(trio_time)
        self.lost_claims = lost_claims
        self.asked_at: list[float] = []

    def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
        self.asked_at.append(trio.current_time())
        if len(self.asked_at) <= self.lost_claims:
            return Claimed((), more=True, lost=FEW)
        return super().claim(ask, taking)


async def test_claims_that_others_were_quicker_than_are_not_made_again_at_once() -> None:
    """All who race would meet at the next head too, and ask the server for the same tasks again."""
    store = Raced(4)
    app = StreamQ.on(store, SlowClaims(), safety_scan_s=None)
    ran = trio.Event()

    @app.task(queue="q", name="job", keep_s=0)
    async def job() -> None:
        ran.set()

    store.put([job.new()])
    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work({"q": 4}, task_status=task_status))
        with trio.fail_after(5):
            await ran.wait()
        nursery.cancel_scope.cancel()
    apart_s = [later - before for before, later in itertools.pairwise(store.asked_at[:5])]
    assert all(one_s > CLAIM_S + 1e-6 for one_s in apart_s), "a claim takes so long itself"
