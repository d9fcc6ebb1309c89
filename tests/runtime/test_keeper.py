"""What a holder counts on: extensions whose answers are lost, and those that overtake each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar, TypeVarTuple

import msgspec
import pytest
import trio
import trio.testing
from bson import ObjectId

from streamq import StoreUnavailable, StreamQ, current_task
from streamq.bridge import InlineBridge
from streamq.core.claim import Claim
from streamq.runtime import clock, keeper
from streamq.runtime.held import MARGIN, Held
from streamq.store.memory import MemoryStore
from streamq.testing import trio_time

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SHORT_S: Final = 1.0
TRUSTED: Final = 1 - MARGIN
DEADLINE_S: Final = 10.0
"""The driver's."""


class DeafBridge(InlineBridge):
    """Extensions take effect; the answers of the first `lost` are lost, which is known after `known_s`."""

    def __init__(self, lost: float, known_s: float) -> None:
        self.lost = lost
        self.known_s = known_s
        self.in_flight = self.most_in_flight = 0

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Bridge.call`."""
        result = await super().call(function, *args)
        if function.__name__ != "extend" or self.lost <= 0:
            return result
        self.lost -= 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await trio.sleep(self.known_s)
        finally:
            self.in_flight -= 1
        raise StoreUnavailable("the answer is lost")


@asynccontextmanager
async def running(bridge: InlineBridge) -> AsyncIterator[tuple[StreamQ, list[str]]]:
    """Let a worker run one task of twenty leases; the list tells how each of its runs ended."""
    app = StreamQ.on(MemoryStore(trio_time), bridge, lease_s=SHORT_S, safety_scan_s=None)
    ended: list[str] = []

    @app.task
    async def long() -> None:
        how = "cancelled"
        try:
            await trio.sleep(20 * SHORT_S)
            how = "done"
        finally:
            ended.append(how)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=1, task_status=task_status))
        handle = await long.put()
        await handle.wait()
        yield app, ended
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("known_s", [0.0, 0.05, 1_000.0])
async def test_two_lost_answers_in_a_row_do_not_end_the_shortest_lease(
    known_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both took effect, and the longest of pauses are drawn."""
    monkeypatch.setattr(clock, "chance", lambda: 0.999)
    monkeypatch.setattr(clock, "jittered", lambda seconds: seconds * 1.499)
    bridge = DeafBridge(2, known_s)
    with trio.move_on_after(100):
        async with running(bridge) as (app, ended):
            assert ended == ["done"]
            assert app.journal.counts["leases no longer trusted"] == 0


async def test_extensions_that_nobody_answers_do_not_use_up_threads() -> None:
    bridge = DeafBridge(float("inf"), 1_000.0)
    app = StreamQ.on(MemoryStore(trio_time), bridge, lease_s=SHORT_S, safety_scan_s=None)

    @app.task
    async def long() -> None:
        await trio.sleep(20)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=4, task_status=task_status))
        for _ in range(4):
            await long.put()
            await trio.sleep(SHORT_S * 0.3)
        await trio.sleep(30)
        assert bridge.most_in_flight == keeper.MOST_AT_ONCE
        bridge.lost = 0
        nursery.cancel_scope.cancel()


async def test_lease_that_nobody_extends_is_not_trusted_to_its_end() -> None:
    bridge = DeafBridge(float("inf"), 1_000.0)
    began: list[float] = []
    ended: list[float] = []
    app = StreamQ.on(MemoryStore(trio_time), bridge, lease_s=SHORT_S, safety_scan_s=None)

    @app.task
    async def long() -> None:
        began.append(trio.current_time())
        try:
            await trio.sleep(20)
        finally:
            ended.append(trio.current_time())

    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=1, task_status=task_status))
        await long.put()
        await trio.sleep(SHORT_S * 0.9)
        nursery.cancel_scope.cancel()
    assert ended[0] - began[0] <= SHORT_S * TRUSTED + 0.001


class StandingStill(InlineBridge):
    """The first connections that extensions are sent by stand still until the driver gives them up; others are well."""

    def __init__(self, left: int) -> None:
        self.left = left

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Bridge.call`."""
        if function.__name__ == "extend" and self.left:
            self.left -= 1
            await trio.sleep(DEADLINE_S)
            raise StoreUnavailable("no answer")
        return await super().call(function, *args)


async def test_connections_that_stand_still_cost_what_is_claimed_later_no_extension() -> None:
    """They are one fault: what came back by it is begun once more, and keeps its lease."""
    app = StreamQ.on(MemoryStore(trio_time), StandingStill(keeper.MOST_BEATS), lease_s=SHORT_S, safety_scan_s=None)
    begun: list[int] = []

    @app.task
    async def long() -> None:
        begun.append(current_task().attempt)
        await trio.sleep(DEADLINE_S / 2)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=1, task_status=task_status))
        handle = await long.put()
        await handle.wait()
        nursery.cancel_scope.cancel()
    assert begun == [1, 2]


class ShortenedUnheard(MemoryStore):
    """An extension for one second takes effect, and its answer is lost."""

    def extend(self, claims: Sequence[Claim]) -> list[ObjectId]:
        """See `Store.extend`."""
        lost = super().extend(claims)
        if claims[0].lease_s == SHORT_S:
            raise StoreUnavailable("the answer is lost")
        return lost


@pytest.mark.parametrize("lost", [0, 1])
async def test_lease_that_may_have_been_shortened_is_extended_before_the_shorter_one_ends(lost: int) -> None:
    """A beat that is lost meanwhile, and of which nobody hears so for long, is not waited for."""
    store, bridge = ShortenedUnheard(trio_time), StandingStill(0)
    app = StreamQ.on(store, bridge, lease_s=600)
    async with app:
        await app.queue("q").put(1)
        task = await app.queue("q").claim()
        assert task is not None
        with pytest.raises(StoreUnavailable):
            await task.extend(SHORT_S)
        bridge.left = lost
        await trio.sleep(2 * SHORT_S)
        assert bridge.left == 0
        (document,) = store.documents.values()
        assert document["lease_until"] > trio_time()
        async with task:
            pass


# --- what is counted on ----------------------------------------------------------------------------------------------


def claim(lease_s: float) -> Claim:
    return Claim(ObjectId(), "q", "t", None, 1, 3, 0, b"claim", lease_s, None)


async def held_after(seconds: float, lease_s: float) -> Held:
    """Return a claim that was sent now, and let time pass."""
    held = Held(claim(lease_s), clock.now(), None)
    await trio.sleep(seconds)
    return held


async def test_answer_that_was_overtaken_by_that_of_a_later_extension_changes_nothing() -> None:
    held = await held_after(15, 30)
    now = clock.now()
    held.trust(now - 1, held.claim)
    held.trust(now - 5, held.claim)
    assert held.trusted_until == now - 1 + 30 * TRUSTED
    assert held.beat_at == pytest.approx(now - 1 + 10)


async def test_of_overlapping_extensions_for_different_times_the_sooner_end_counts() -> None:
    """The longer was heard first; the shorter was sent after it, before that, and may have been written after it."""
    held = await held_after(10, 30)
    now = clock.now()
    longer = msgspec.structs.replace(held.claim, lease_s=600.0)
    held.trust(now - 0.5, held.claim)  # a beat that was sent, and heard, while the longer one was on its way
    held.trust(now - 1, longer)
    held.claim = longer
    assert held.trusted_until == now - 0.5 + 30 * TRUSTED
    await trio.sleep(1)
    held.trust(clock.now(), longer)
    assert held.trusted_until == clock.now() + 600 * TRUSTED


async def test_extension_that_one_of_unknown_outcome_overlapped_does_not_count_for_more_than_that() -> None:
    """A beat was sent before the longer one, and nobody knows which of the two was written last."""
    held = await held_after(10, 30)
    now = clock.now()
    longer = msgspec.structs.replace(held.claim, lease_s=600.0)
    until = held.trusted_until
    held.mistrust(now - 1, held.claim)
    held.trust(now - 0.5, longer)
    assert held.trusted_until == until


async def test_extension_for_less_that_may_have_been_written_is_counted_as_if_it_was() -> None:
    held = await held_after(10, 30)
    now = clock.now()
    held.mistrust(now - 0.1, msgspec.structs.replace(held.claim, lease_s=1.0))
    assert held.trusted_until == now - 0.1 + TRUSTED


async def test_extension_for_as_long_or_longer_that_may_not_have_been_written_changes_nothing() -> None:
    held = await held_after(10, 30)
    until = held.trusted_until
    held.mistrust(clock.now(), held.claim)
    held.mistrust(clock.now(), msgspec.structs.replace(held.claim, lease_s=600.0))
    assert held.trusted_until == until


async def test_extensions_that_a_shorter_one_of_unknown_outcome_overlapped_do_not_outlast_it() -> None:
    held = await held_after(10, 30)
    now = clock.now()
    held.mistrust(now - 0.3, msgspec.structs.replace(held.claim, lease_s=5.0))
    until = held.trusted_until
    held.trust(now - 0.2, held.claim)
    held.trust(now - 0.1, held.claim)
    assert held.trusted_until == until


async def test_extension_that_a_shorter_one_overlapped_does_not_outlast_it_though_more_was_left_then() -> None:
    """That may have been written last, and it ends later than what was counted on until then."""
    held = await held_after(10, 30)
    now = clock.now()
    held.mistrust(now - 0.3, msgspec.structs.replace(held.claim, lease_s=20.0))
    held.trust(now - 0.2, held.claim)
    assert held.trusted_until <= now + 20.0
    held.trust(now, held.claim)
    assert held.trusted_until == now + 30 * TRUSTED


class SlowServer(InlineBridge):
    """While `slow`, what renews a lease waits; `go_on` does it in one order and answers in another."""

    def __init__(self) -> None:
        self.slow = False
        self.asked: dict[str, tuple[Callable[[], Any], trio.Event]] = {}
        self._answers: dict[str, Any] = {}

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Bridge.call`."""
        if not self.slow or function.__name__ not in ("extend", "report"):
            return await super().call(function, *args)
        name, given = function.__name__, tuple[Any, ...](args)
        if name == "extend":
            name += f" {given[0][0].lease_s:g}"
        self.asked[name] = (lambda: function(*args), trio.Event())
        with trio.CancelScope(shield=True):
            await self.asked[name][1].wait()
        answer: T = self._answers[name]
        return answer

    async def go_on(self, done: Sequence[str], heard: Sequence[str]) -> None:
        """Be slow no more."""
        self.slow = False
        for name in done:
            self._answers[name] = self.asked[name][0]()
        for name in heard:
            self.asked[name][1].set()
            await trio.testing.wait_all_tasks_blocked()


async def test_lease_that_was_shortened_beside_a_beat_and_a_report_is_kept() -> None:
    """The server is slow for half a second; it has written the longer ones first, and they are heard last."""
    store, bridge = MemoryStore(trio_time), SlowServer()
    app = StreamQ.on(store, bridge, lease_s=30.0, safety_scan_s=None)
    async with app, trio.open_nursery() as nursery:
        queue = app.queue("q")
        await queue.put("long")
        task = await queue.claim()
        assert task is not None
        await trio.sleep(9.9)
        bridge.slow = True
        nursery.start_soon(task.extend, 5.0)
        await trio.sleep(0.05)
        nursery.start_soon(task.progress, 0.5)
        await trio.sleep(0.45)
        assert list(bridge.asked) == ["extend 5", "report", "extend 30"]
        await bridge.go_on(["report", "extend 30", "extend 5"], ["extend 5", "report", "extend 30"])
        await trio.sleep(8)
        (document,) = store.documents.values()
        assert document["lease_until"] > trio_time(), "nobody has extended it"
        await task.succeed()


async def test_lease_that_is_trusted_no_more_stays_so() -> None:
    """Who was to begin it may have passed it over."""
    held = await held_after(30 * TRUSTED, 30)
    until = held.trusted_until
    held.trust(clock.now() - 0.1, held.claim)
    assert held.trusted_until == until
