"""Claims that are sent behind another one: when, in which order they arrive, and how they end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple

import pytest
import trio
from bson import ObjectId

from streamq import StreamQ
from streamq.bridge import InlineBridge, Turn, Turns
from streamq.core import demand
from streamq.core.claim import Ask
from streamq.core.demand import ClaimHead
from streamq.errors import StoreUnavailable
from streamq.runtime.flight import NOTHING, Flight
from streamq.store.contract import Claimed, Taking
from streamq.store.memory import MemoryStore
from streamq.testing import trio_time

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CLAIM_S = 0.05
FULL = 20
"""Tasks in one claim."""


@pytest.fixture(autouse=True)
def _small_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand, "MOST_A_CLAIM", FULL)


class Noted(Turn):
    """Notes whether it was passed on."""

    passed_on = False

    def pass_on(self, at: Sequence[ObjectId]) -> None:
        self.passed_on = True


class Line(InlineBridge):
    """Claims take a while, and those in turn go one after the other, as in threads. The first `fails` of those that
    wait behind another fail."""

    def __init__(self) -> None:
        self.under_way = self.most = 0
        self.fails = 0
        self.passed_on: list[bool] = []
        self.followed = trio.Event()
        self._line = trio.Lock()

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if getattr(function, "__name__", "") != "claim":
            return await super().call(function, *args)
        await trio.lowlevel.checkpoint_if_cancelled()
        answer = []
        with trio.CancelScope(shield=True):
            await trio.sleep(CLAIM_S)
            answer.append(function(*args))
            await trio.lowlevel.checkpoint()
        return answer[0]

    async def in_turn(self, turns: Turns, function: Callable[[Turn], T]) -> T:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.under_way == 2:
            self.followed.set()
        answer = []
        try:
            with trio.CancelScope(shield=True):
                async with self._line:
                    if self.fails and isinstance(getattr(function, "__self__", None), Flight):
                        self.fails -= 1
                        raise StoreUnavailable("away")
                    await trio.sleep(CLAIM_S)
                    turn = Noted()
                    answer.append(function(turn))
                    if answer[0] is not NOTHING:
                        self.passed_on.append(turn.passed_on)
        finally:
            self.under_way -= 1
        return answer[0]


class Asked(MemoryStore):
    """Notes what is asked for."""

    def __init__(self) -> None:
        super().__init__(trio_time)
        self.asks: list[Ask] = []

    def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
        self.asks.append(ask)
        if taking is not None:
            taking(())
        return super().claim(ask, taking)


class Drain:
    """A worker with handlers that are through at once."""

    def __init__(self) -> None:
        self.store = Asked()
        self.bridge = Line()
        self.app = StreamQ.on(self.store, self.bridge, safety_scan_s=None)
        self.ran: list[Any] = []
        self._one_more = trio.lowlevel.ParkingLot()

        @self.app.task(queue="q", name="job", keep_s=0)
        async def job(number: int) -> None:
            self.ran.append(number)
            self._one_more.unpark_all()

        self.job = job

    def put(self, *numbers: int, **options: Any) -> None:
        job = self.job.options(**options) if options else self.job
        self.store.put([job.new(number) for number in numbers])

    async def until_run(self, count: int) -> None:
        with trio.fail_after(60):
            while len(self.ran) < count:
                await self._one_more.park()


@asynccontextmanager
async def draining(drain: Drain, slots: int = 4) -> AsyncIterator[None]:
    async with drain.app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: drain.app.work({"q": slots}, task_status=task_status))
        yield
        nursery.cancel_scope.cancel()


async def test_next_claim_is_sent_behind_the_one_under_way_once_all_has_been_run() -> None:
    drain = Drain()
    drain.put(*range(6 * FULL))
    async with draining(drain):
        await drain.until_run(6 * FULL)
    assert drain.bridge.most == 2
    assert len(drain.bridge.passed_on) > 2
    assert all(drain.bridge.passed_on), "each lets the next look while it takes what it found"


async def test_claim_behind_another_leaves_out_what_that_one_is_about_to_take() -> None:
    store, ahead, ids = Asked(), Turn(), (ObjectId(), ObjectId())
    ahead.pass_on(ids)
    Flight(ClaimHead(limit=2, spare=0), Ask("q", 2, b"claim", 30.0, "w"), store).claim(Turn(ahead))
    assert store.asks[0].beside == ids


async def test_claims_that_follow_each_other_start_their_tasks_in_the_order_of_the_queue() -> None:
    drain = Drain()
    drain.put(*range(6 * FULL))
    async with draining(drain, slots=1):
        await drain.until_run(6 * FULL)
    assert drain.bridge.most == 2
    assert drain.ran == list(range(6 * FULL))


async def test_task_that_may_not_wait_here_is_claimed_while_claims_follow_each_other() -> None:
    """It is left out by claims for tasks that will wait; those for free slots come often enough."""
    drain = Drain()
    drain.put(*range(8 * FULL))
    async with draining(drain):
        await drain.until_run(3 * FULL)
        assert drain.bridge.most == 2, "claims follow each other, or this shows nothing"
        drain.put(-1, max_attempts=1, priority=1)
        await drain.until_run(7 * FULL)
        assert -1 in drain.ran


async def test_claim_behind_another_that_fails_is_made_again() -> None:
    drain = Drain()
    drain.put(*range(6 * FULL))
    drain.bridge.fails = 1
    async with draining(drain):
        await drain.until_run(6 * FULL)
    assert drain.bridge.fails == 0


async def test_stop_gives_back_what_both_claims_obtain_and_sends_none_that_was_not_sent() -> None:
    drain = Drain()
    drain.put(*range(8 * FULL))
    async with draining(drain):
        with trio.fail_after(60):
            await drain.bridge.followed.wait()
        asked = len(drain.store.asks)
    assert len(drain.store.asks) <= asked + 1
    assert {one["status"] for one in drain.store.documents.values()} == {"ready"}
    assert len(drain.ran) + len(drain.store.documents) == 8 * FULL


async def test_pause_gives_back_what_both_claims_obtain() -> None:
    drain = Drain()
    drain.put(*range(8 * FULL))
    async with draining(drain):
        with trio.fail_after(60):
            await drain.bridge.followed.wait()
        await drain.app.queue("q").pause()
        await trio.sleep(1)
        assert {one.get("status") for one in drain.store.documents.values() if "status" in one} == {"ready"}
        await drain.app.queue("q").resume()
        await drain.until_run(8 * FULL)
