"""Delayed tasks whose time has come: claimed together where takers wait, released where not, in parts when a flood has
come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
import trio.lowlevel

from streamq import StoreUnavailable
from streamq.bridge import InlineBridge
from streamq.core.claim import Ask
from streamq.core.document import TaskDocument
from streamq.core.member import Roster
from streamq.core.wake import Wake
from streamq.core.wakes import Interest
from streamq.handler import Handler
from streamq.runtime import releaser
from streamq.runtime.journal import Journal
from streamq.runtime.releaser import EARLY_S, FEWEST_READ, MOST_ANNOUNCED, MOST_READ, PARTS_AT_ONCE, Releaser
from streamq.store.contract import Claimed, Due, Overdue, Released
from streamq.testing import memory_app
from tests.runtime.test_leases import memory, working

DELAY_S = 5.0


async def at_once() -> None: ...


class Lab:
    """An app in memory, what its handlers were given (queue, number, how late), and what was asked of its store: how
    many tasks each `claim_due` obtained, each `release_due` was for, and how often it was a flood."""

    def __init__(self, *queues: str, ends: Callable[[], Awaitable[None]] = at_once) -> None:
        self.app = memory_app(safety_scan_s=None, lease_s=86_400)
        self.begun: list[tuple[str, int, float]] = []
        self.claimed: list[int] = []
        self.released: list[int] = []
        self.floods = 0
        self.unheard = False  # no stream tells of releases
        self._ends = ends
        self._due_at = 0.0
        self._handlers = {queue: self._declared(queue) for queue in queues}
        self.store = memory(self.app)
        self._claim_due, self._release_due = self.store.claim_due, self.store.release_due
        self._overdue = self.store.overdue
        self.store.overdue = self.overdue  # type: ignore[method-assign]
        self.store.claim_due = self.claim_due  # type: ignore[method-assign]
        self.store.release_due = self.release_due  # type: ignore[method-assign]

    def _declared(self, queue: str) -> Handler[[int], None, object]:
        @self.app.task(queue=queue, name=queue)
        async def handler(number: int) -> None:
            self.begun.append((queue, number, trio.current_time() - self._due_at))
            await self._ends()

        return handler

    def claim_due(self, ask: Ask, found: Sequence[TaskDocument]) -> Claimed:
        claimed = self._claim_due(ask, found)
        self.claimed.append(len(claimed.claims))
        return claimed

    def release_due(self, ids: Sequence[Any], queues: Sequence[str] = ()) -> Released:
        self.released.append(len(ids))
        feeds = list(self.store.feeds)
        if self.unheard:
            self.store.feeds.clear()
        try:
            return self._release_due(ids, queues)
        finally:
            self.store.feeds[:] = feeds

    def overdue(self) -> Overdue:
        self.floods += 1
        return self._overdue()

    def working(self, slots: int) -> AbstractAsyncContextManager[None]:
        return working(self.app, slots)

    async def put(self, count: int, *queues: str, **more: Any) -> None:
        """Put so many into each queue, all due at one instant, and let it pass."""
        for queue in queues or self._handlers:
            handler = self._handlers[queue].options(delay_s=DELAY_S, **more)
            await self.app.put_many(handler.new(number) for number in range(count))
        self._due_at = trio.current_time() + DELAY_S
        await trio.sleep(2 * DELAY_S)

    @property
    def lateness(self) -> float:
        """How late the latest began."""
        return max(late for _, _, late in self.begun)


async def test_tasks_due_together_are_claimed_together_again_and_again() -> None:
    """What was taken off the offer of free slots comes back, all of it."""
    lab = Lab("q")
    async with lab.working(slots=3):
        for _ in range(3):
            await lab.put(3)
    assert (len(lab.begun), lab.claimed, lab.released, lab.floods) == (9, [3, 3, 3], [], 0)
    assert lab.lateness == pytest.approx(0, abs=0.002)


async def test_look_is_sent_a_moment_early_and_one_too_early_again_when_the_server_says() -> None:
    """On a server the clock goes by whole ms, as do sleeps: the first is mostly late enough. Here it never is."""
    lab = Lab("q")
    due, asked_at = lab.store.due, list[float]()

    def asked(most: int, *, whole: bool = False) -> Due:
        asked_at.append(trio.current_time())
        return due(most, whole=whole)

    lab.store.due = asked  # type: ignore[method-assign]
    async with lab.working(slots=1):
        await lab._handlers["q"].options(delay_s=DELAY_S / 2).put(7)  # whose look says when the next is due
        await lab.put(1)
    early, again = [at - lab._due_at for at in asked_at if abs(at - lab._due_at) < 1][:2]
    assert early == pytest.approx(-EARLY_S, abs=EARLY_S / 2)
    assert again == pytest.approx(0, abs=0.002)
    assert lab.begun[-1][2] == pytest.approx(0, abs=0.002)


async def test_due_tasks_beyond_the_free_slots_are_released() -> None:
    lab = Lab("q")
    async with lab.working(slots=2):
        await lab.put(3)
    assert (len(lab.begun), lab.claimed, lab.released) == (3, [2], [1])


async def test_more_urgent_due_task_is_claimed_first() -> None:
    lab = Lab("q", "r")
    async with lab.working(slots=1):
        await lab.put(1, "r")  # so that a look reads more than one
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lab.put, 1, "q")
            await trio.lowlevel.checkpoint()
            await lab._handlers["q"].options(delay_s=DELAY_S, priority=1).put(7)
    assert [number for queue, number, _ in lab.begun if queue == "q"] == [7, 0]


async def test_due_tasks_of_many_queues_are_released_together() -> None:
    """A claim for each queue, one after the other, would let the last of them wait for all."""
    lab = Lab("a", "b", "c", "d")
    async with lab.working(slots=1):
        await lab.put(1)
    assert (len(lab.begun), lab.claimed, lab.released) == (4, [1, 1], [2])


async def test_due_task_that_another_has_taken_meanwhile_costs_no_slot() -> None:
    lab = Lab("q")
    claim_due = lab._claim_due
    taken: list[Claimed] = []

    def racing(ask: Ask, found: Sequence[TaskDocument]) -> Claimed:
        if not taken:
            taken.append(claim_due(ask, found[:1]))
        return claim_due(ask, found)

    lab._claim_due = racing
    async with lab.working(slots=2):
        await lab.put(2)
        await lab.put(2)
    assert (lab.claimed, [len(one.claims) for one in taken]) == ([1, 2], [1])


async def test_due_task_that_was_not_obtained_is_run_before_the_stream_tells_of_its_release() -> None:
    """That may be 100 ms later, and this process has released it."""
    lab = Lab("q")

    def refused(ask: Ask, found: Sequence[TaskDocument]) -> Claimed:
        return Claimed((), more=False)

    lab._claim_due = refused
    async with lab.working(slots=2):
        lab.unheard = True
        await lab.put(1)
    assert (len(lab.begun), lab.released) == (1, [1])
    assert lab.lateness == pytest.approx(0, abs=0.002)


async def test_due_tasks_wait_for_no_release_of_others() -> None:
    """What was claimed at once begins, whatever becomes of the statement for the rest."""
    lab = Lab("q")

    def failing(ids: Sequence[Any], queues: Sequence[str] = ()) -> Released:
        lab._release_due = released
        raise StoreUnavailable("no primary")

    released, lab._release_due = lab._release_due, failing
    async with lab.working(slots=2):
        await lab.put(3)
        assert sorted(late for _, _, late in lab.begun)[:2] == pytest.approx([0, 0], abs=0.002)
    assert len(lab.begun) == 3


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few tasks are a flood, of which a part is a handful."""
    monkeypatch.setattr(releaser, "MOST_READ", 8)
    monkeypatch.setattr(releaser, "PART", 5)


async def a_moment() -> None:
    await trio.sleep(0.01)


@pytest.mark.usefixtures("small")
async def test_flood_is_released_in_parts_and_each_queue_is_looked_at() -> None:
    lab = Lab("q", "r", ends=a_moment)
    async with lab.working(slots=2):
        await lab.put(36)
    assert len(lab.begun) == 72
    assert lab.released.count(5) > 5
    assert lab.floods > 0
    assert max(lab.released) <= 8
    assert sum(lab.released) + sum(lab.claimed) == 72


@pytest.mark.usefixtures("small")
async def test_parts_of_a_flood_are_in_flight_together_and_an_error_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab("q")
    most, in_flight, failed = 0, 0, 0
    call = InlineBridge.call

    async def slow(bridge: InlineBridge, function: Callable[..., Any], *args: Any) -> Any:
        nonlocal most, in_flight, failed
        if function == lab.store.release_due:
            in_flight += 1
            most = max(most, in_flight)
            await trio.sleep(0.05)
            in_flight -= 1
            if not failed:
                failed += 1
                raise StoreUnavailable("no primary")
        return await call(bridge, function, *args)

    monkeypatch.setattr(InlineBridge, "call", slow)
    async with lab.working(slots=8):
        await lab.put(60)
        await trio.sleep(30)
    assert (most, failed, len(lab.begun)) == (PARTS_AT_ONCE, 1, 60)


async def look_on_alone(
    lab: Lab, deliver: Callable[[Sequence[object]], None], *, most: int = FEWEST_READ, rank: int = 0
) -> None:
    """For ten seconds let one look that begins by reading `most`, and whose worker takes nothing at once."""
    one = Releaser(lab.store, InlineBridge(), lambda: False, lambda *_: None, deliver, Journal())
    one._most = most
    one.join(Roster(rank, 30.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        one.hear(0.0)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()


async def test_flood_whose_release_had_no_answer_is_announced_again() -> None:
    """It may be done, and then no look finds it due, and nobody has heard of it."""
    lab, asked, delivered = Lab("q"), list[tuple[int, Sequence[str]]](), list[object]()
    released = lab._release_due

    def unanswered(ids: Sequence[Any], queues: Sequence[str] = ()) -> Released:
        asked.append((len(ids), queues))
        done = released(ids, queues)
        if len(asked) == 1:
            raise StoreUnavailable("no reply")
        return done

    lab._release_due = unanswered
    async with lab.app:
        await lab.put(MOST_READ)
        await look_on_alone(lab, delivered.extend, most=MOST_READ)
    assert asked == [(MOST_READ - 1, ("q",)), (0, ("q",)), (1, ())]
    assert Wake("ready", queue="q") in delivered


async def test_flood_of_a_worker_that_died_before_its_word_is_announced_by_the_next() -> None:
    """Nobody was told of the others, and no look finds them due; the last one is."""
    lab, asked, delivered = Lab("q"), list[tuple[int, Sequence[str]]](), list[object]()
    released = lab._release_due
    async with lab.app:
        await lab.put(MOST_READ)
        overdue = lab.store.overdue()
        released([id for id in overdue.ids if id not in overdue.lasts], ["another"])  # it died here
        ear = lab.store.feed(Interest(("q",), timers=False, reply_to=None, bell="b"))

        def asking(ids: Sequence[Any], queues: Sequence[str] = ()) -> Released:
            asked.append((len(ids), queues))
            return released(ids, queues)

        lab._release_due = asking
        await look_on_alone(lab, delivered.extend, rank=1)
    assert asked == [(0, ("q",)), (1, ())]
    assert "q" in [wake.freed_in for wake in ear.wakes]


async def test_flood_whose_release_had_no_answer_is_announced_though_nothing_of_it_is_due_any_more() -> None:
    lab, asked, delivered = Lab("q"), list[int](), list[object]()
    released = lab._release_due
    lasts: list[Any] = []

    def unanswered(ids: Sequence[Any], queues: Sequence[str] = ()) -> Released:
        asked.append(len(ids))
        if len(asked) > 1:
            return released(ids, queues)
        released(ids, ["another"])  # it is cut off before its word
        for id in lasts:
            lab.store.documents[id]["status"] = "cancelled"  # somebody cancels it
        raise StoreUnavailable("no reply")

    lab._release_due = unanswered
    async with lab.app:
        await lab.put(MOST_READ)
        lasts += lab.store.overdue().lasts
        ear = lab.store.feed(Interest(("q",), timers=False, reply_to=None, bell="b"))
        await look_on_alone(lab, delivered.extend, most=MOST_READ)
    assert Wake("ready", queue="q") in delivered, "this process has not heard of it either"
    assert "q" in [wake.freed_in for wake in ear.wakes]


async def test_flood_of_a_worker_that_stands_by_is_told_of_task_by_task() -> None:
    """If it died before its word, the first, who doubts nothing, would not make that good."""
    lab, asked = Lab("q"), list[Sequence[str]]()
    released = lab._release_due

    def asking(ids: Sequence[Any], queues: Sequence[str] = ()) -> Released:
        if ids:
            asked.append(queues)
        return released(ids, queues)

    lab._release_due = asking
    async with lab.app:
        await lab.put(2 * MOST_READ)
        await look_on_alone(lab, lambda items: None, most=MOST_READ, rank=1)
    assert set(asked) == {()}


async def test_flood_in_many_queues_is_told_of_task_by_task() -> None:
    """A statement for each queue after each part would cost more than it spares."""
    queues = [f"q{number}" for number in range(MOST_ANNOUNCED + 2)]  # those of the first are released before it is one
    lab, asked = Lab(*queues), list[Sequence[str]]()
    released = lab._release_due

    def asking(ids: Sequence[Any], queues: Sequence[str] = ()) -> Released:
        asked.append(queues)
        return released(ids, queues)

    lab._release_due = asking
    async with lab.working(slots=1):
        await lab.put(MOST_READ)
    assert len(lab.begun) == len(queues) * MOST_READ
    assert lab.floods > 0
    assert set(asked) == {()}


async def test_look_reads_few_until_many_are_due() -> None:
    lab = Lab("q")
    read: list[int] = []
    due = lab.store.due

    def reading(most: int, *, whole: bool = False) -> Any:
        read.append(most)
        return due(most, whole=whole)

    lab.store.due = reading  # type: ignore[method-assign]
    async with lab.working(slots=64):
        await lab.put(1)
        assert set(read) == {FEWEST_READ}
        await lab.put(2 * MOST_READ)
        assert max(read) == MOST_READ
        for _ in range(2):
            await lab.put(1)
        assert read[-1] == FEWEST_READ
    assert len(lab.begun) == 2 * MOST_READ + 3
