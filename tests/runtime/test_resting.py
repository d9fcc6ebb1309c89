"""The stream rests while every queue gives more than is taken: nothing that it would have told is missed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, TypeVarTuple

import pytest
import trio

from streamq import StreamQ
from streamq.bridge import Deliver, InlineBridge, Swift
from streamq.core import member, pressure
from streamq.core.pressure import WINDOW_S
from streamq.runtime.watcher import REST_LOOK_S
from streamq.store.contract import Feed
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time
from tests.runtime.looking import WINDOW, LookingStore
from tests.runtime.test_leases import memory

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

BUSY_PER_S = 50.0  # a tenth of the real figure: fewer tasks to fill the time
SLOTS = 5
TASK_S = SLOTS / BUSY_PER_S / 4  # four times as fast as makes a stream rest
LONG_WAY_S = 0.2
LASTS_S: dict[object, float] = {"long": 100.0, "longer than a window": WINDOW_S * 1.5}


@pytest.fixture(autouse=True)
def less_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "BUSY_PER_S", BUSY_PER_S)
    monkeypatch.setattr(pressure, "QUICK_PER_S", 2 * BUSY_PER_S)


class LongWayBridge(InlineBridge):
    """Opening a stream takes long, closing it too."""

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Bridge.call`."""
        result = await super().call(function, *args)
        if function.__name__ in ("feed", "beat"):
            await self._take_long()
        return result

    async def follow(self, feed: Feed, swift: Swift, deliver: Deliver, ring: Callable[[], None]) -> None:
        """See `Bridge.follow`."""
        try:
            await super().follow(feed, swift, deliver, ring)
        finally:
            await self._take_long()

    async def _take_long(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(LONG_WAY_S)


class Busy:
    """A worker with a long backlog of short tasks; another app on the same store, of which only the stream tells."""

    def __init__(self, app: StreamQ) -> None:
        self.store: MemoryStore = memory(app)
        self.other = StreamQ.on(self.store, InlineBridge(), safety_scan_s=None)
        self.ran: dict[object, float] = {}
        self.ended: list[object] = []
        self.note = self._declared(app)
        self.note_of_other = self._declared(self.other)

    def _declared(self, app: StreamQ):  # type: ignore[no-untyped-def]
        @app.task(queue="q", name="note")
        async def note(what: object) -> object:
            self.ran[what] = trio.current_time()
            try:
                await trio.sleep(LASTS_S.get(what, TASK_S))
            finally:
                self.ended.append(what)
            return what

        return note

    @property
    def is_resting(self) -> bool:
        """Whether the worker has no stream."""
        return not any(feed.interest.queues == ("q",) for feed in self.store.feeds)

    async def until(self, so: Callable[[], bool]) -> None:
        with trio.fail_after(100):
            while not so():  # noqa: ASYNC110 - nothing tells of it
                await trio.sleep(TASK_S / 10)

    async def until_resting(self) -> None:
        await self.until(lambda: self.is_resting)

    async def until_drained(self) -> None:
        await self.until(lambda: not self.store.counts()["q"].keys() - {"succeeded"})

    def waiting(self, status: str) -> int:
        return self.store.counts()["q"].get(status, 0)


@asynccontextmanager
async def busy(tasks: int = 800, app: StreamQ | None = None) -> AsyncIterator[Busy]:
    app = app or memory_app(safety_scan_s=None)
    work = Busy(app)
    async with app, work.other, trio.open_nursery() as nursery:
        await app.put_many([work.note.new(number) for number in range(tasks)])
        await nursery.start(app.work, {"q": SLOTS})
        yield work
        nursery.cancel_scope.cancel()


async def test_stream_rests_under_a_long_backlog_and_opens_when_it_is_drained() -> None:
    async with busy() as work:
        assert not work.is_resting
        await work.until_resting()
        await work.until_drained()
        await trio.sleep(3 * WINDOW_S)
        assert not work.is_resting
        put_at = trio.current_time()
        await work.note_of_other.put("late")
        await work.until_drained()
        assert work.ran["late"] - put_at < TASK_S


async def test_every_task_put_while_the_stream_rests_and_opens_again_runs_soon() -> None:
    async with busy(400) as work:
        await work.until_resting()
        put_at: dict[object, float] = {}
        await work.until(lambda: work.waiting("ready") <= 3 * SLOTS)
        for number in range(200):
            put_at["late", number] = trio.current_time()
            await work.note_of_other.put(("late", number))
            await trio.sleep(TASK_S / SLOTS * 1.1)  # a little slower than they run
        await work.until_drained()
        assert max(work.ran[one] - at for one, at in put_at.items()) < REST_LOOK_S / 2


async def test_stream_rests_while_much_is_put_and_run_at_once_and_the_queue_is_looked_at_instead() -> None:
    async with busy(0) as work:
        put_at: dict[object, float] = {}
        resting = 0
        for number in range(600):
            put_at[number] = trio.current_time()
            await work.note_of_other.put(number)
            await trio.sleep(TASK_S / SLOTS * 1.5)
            resting += work.is_resting
        await work.until_drained()
        assert resting > 300
        assert max(work.ran[one] - at for one, at in put_at.items()) < 2 * pressure.LOOK_S + TASK_S


async def test_queue_is_looked_at_while_its_stream_closes_and_until_it_is_open_again() -> None:
    app = StreamQ.on(MemoryStore(trio_time), LongWayBridge(), safety_scan_s=None)
    async with busy(0, app) as work:
        put_at: dict[object, float] = {}

        async def put(count: int, per_s: float) -> None:
            for _ in range(count):
                number = len(put_at)
                put_at[number] = trio.current_time()
                await work.note_of_other.put(number)
                await trio.sleep(1 / per_s)

        await put(300, 2.5 * BUSY_PER_S)
        assert work.is_resting
        await put(100, 0.8 * BUSY_PER_S)
        assert not work.is_resting
        await work.until_drained()
        assert max(work.ran[one] - at for one, at in put_at.items()) < 2 * pressure.LOOK_S + TASK_S


async def test_stream_stays_open_while_handlers_are_slow() -> None:
    app = memory_app(safety_scan_s=None)
    feeds = 0

    @app.task(queue="q")
    async def slow(number: int) -> None:
        nonlocal feeds
        feeds = len(memory(app).feeds)
        await trio.sleep(2 * SLOTS / BUSY_PER_S)

    async with app, trio.open_nursery() as nursery:
        await app.put_many([slow.new(number) for number in range(200)])
        await nursery.start(app.work, {"q": SLOTS})
        while memory(app).counts()["q"].get("ready"):
            await trio.sleep(WINDOW_S)
            assert feeds == 1
        nursery.cancel_scope.cancel()


async def test_pause_is_heard_while_the_stream_rests() -> None:
    async with busy() as work:
        await work.until_resting()
        await work.other.queue("q").pause()
        await trio.sleep(REST_LOOK_S + TASK_S)
        ran = len(work.ran)
        await trio.sleep(10)
        assert len(work.ran) == ran
        await work.other.queue("q").resume()
        await work.until_drained()


async def test_cancel_is_heard_while_the_stream_rests() -> None:
    async with busy() as work:
        await work.note_of_other.options(priority=1).put("before")
        handle = await work.note_of_other.options(priority=1).put("long")
        await work.until_resting()
        assert "long" in work.ran
        await work.other.cancel(handle.id)
        await trio.sleep(REST_LOOK_S + TASK_S)
        assert work.is_resting
        assert "long" in work.ended
        assert await handle.status() == "cancelled"


async def test_delayed_task_put_while_the_stream_rests_is_released_soon_after_it_is_due() -> None:
    async with busy() as work:
        await work.until_resting()
        due_at = trio.current_time() + 0.01
        await work.note_of_other.options(priority=1, delay_s=0.01).put("soon")
        await trio.sleep(REST_LOOK_S + 10 * TASK_S)
        assert work.is_resting
        assert work.ran["soon"] - due_at < REST_LOOK_S + 10 * TASK_S


async def test_waiter_opens_the_stream_that_rests_and_keeps_it_open() -> None:
    app = memory_app(safety_scan_s=None)
    work = Busy(app)
    async with app, work.other, trio.open_nursery() as nursery:
        await app.put_many([work.note.new(number) for number in range(800)])
        await nursery.start(app.work, {"q": SLOTS})
        await work.until_resting()
        handle = await work.note.options(priority=1).put("longer than a window")
        put_at = trio.current_time()
        assert await handle.result() == "longer than a window"
        assert trio.current_time() - put_at < LASTS_S["longer than a window"] + 2 * TASK_S
        nursery.cancel_scope.cancel()


async def test_tasks_that_others_wait_for_keep_the_stream_open() -> None:
    async with busy(0) as work:
        await work.other.put_many([work.note_of_other.new(number) for number in range(300)])
        parents = await work.other.put_many([work.note_of_other.new(("parent", number)) for number in range(300)])
        for parent in parents:
            await work.note_of_other.options(after=[parent], priority=1).put(("child", parent.id))
        await work.until_drained()
        for parent in parents[200:]:
            number = parents.index(parent)
            assert work.ran["child", parent.id] - work.ran["parent", number] < REST_LOOK_S


async def test_leaving_while_the_stream_rests_is_prompt() -> None:
    async with busy() as work:
        await work.until_resting()
        began_at = trio.current_time()
    assert trio.current_time() - began_at < REST_LOOK_S


async def test_member_beats_while_the_stream_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "BEAT_S", 2.0)
    async with busy() as work:
        await work.until_resting()
        beats = 0
        beat = work.store.beat

        def counted(member):  # type: ignore[no-untyped-def]
            nonlocal beats
            beats += member.queues == ("q",)
            return beat(member)

        work.store.beat = counted  # type: ignore[method-assign]
        await trio.sleep(2.1)
        assert work.is_resting
        assert beats == 1


async def test_urgent_task_put_during_a_look_past_others_does_not_wait_for_the_backlog() -> None:
    app = StreamQ.on(LookingStore(trio_time), InlineBridge(), safety_scan_s=None)
    producer = StreamQ.on(app.store, InlineBridge(), safety_scan_s=None)

    @producer.task(queue="q")
    async def theirs() -> None: ...

    async with producer:
        await producer.put_many([theirs.new() for _ in range(2 * WINDOW)])
        async with busy(app=app) as work:
            await trio.sleep(3 * WINDOW_S)
            put_at = trio.current_time()
            await work.note_of_other.options(priority=9).put("urgent")
            await trio.sleep(REST_LOOK_S)
            assert work.waiting("ready") > 100
            assert "urgent" in work.ran
            assert work.ran["urgent"] - put_at < 10 * TASK_S
