"""Waiting for the stream, for ends of tasks and for instants: who is served, who is told, and what it costs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

from streamq import StoreError, StreamQ, UsageError
from streamq.bridge import InlineBridge
from streamq.core.claim import Ask
from streamq.core.wake import Wake
from streamq.core.wakes import Interest
from streamq.errors import FeedEnded
from streamq.runtime.pauses import PAUSE_S
from streamq.runtime.waiter import LOOKS_AT_ONCE
from streamq.store.memory import MemoryStore
from streamq.store.memory_feed import MemoryFeed
from streamq.testing import memory_app, trio_time

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class GatedBridge(InlineBridge):
    """A bridge on which calls of one method wait while `gate` is closed, as in a thread: they cannot be cancelled."""

    def __init__(self, method: str) -> None:
        self.calls: Counter[str] = Counter()
        self.in_flight = 0
        self.most_in_flight = 0
        self.gate = trio.Event()
        self._method = method

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        name = getattr(function, "__name__", "")
        self.calls[name] += 1
        if name == self._method:
            await trio.lowlevel.checkpoint_if_cancelled()
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            with trio.CancelScope(shield=True):
                await self.gate.wait()
            self.in_flight -= 1
        return await super().call(function, *args)


# --- the opening of a stream -----------------------------------------------------------------------------------


async def test_waiters_that_come_while_a_stream_is_opened_do_not_begin_it_anew_when_it_will_serve_them() -> None:
    """Were each to begin it anew, a stream would never open while waiters come faster than it does."""
    bridge = GatedBridge("beat")
    bridge.gate.set()
    app = StreamQ.on(MemoryStore(trio_time), bridge)
    heard: list[int] = []

    @app.task
    async def job(number: int) -> int:
        return number

    async def wait(number: int) -> None:
        heard.append(await (await job.put(number)).result())

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        await trio.testing.wait_all_tasks_blocked()
        before = bridge.calls["feed"]
        bridge.gate = trio.Event()
        for number in range(20):
            nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
        assert heard == []
        bridge.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(heard) == list(range(20))
        assert bridge.calls["feed"] - before == 1  # the one that is wider than the worker's
        nursery.cancel_scope.cancel()


class RefusingStore(MemoryStore):
    """A store that does not open streams that tell of results."""

    opened = 0
    refused = 0

    def feed(self, interest: Interest, await_s: float | None = None) -> MemoryFeed:
        if interest.reply_to is not None:
            self.refused += 1
            raise StoreError("cannot open the change stream")
        self.opened += 1
        return super().feed(interest, await_s)


async def test_opening_that_is_refused_is_told_to_the_waiter_who_asked_for_it() -> None:
    """Waiting on would be for ever; `StoreError` says that trying again at once cannot help."""
    app = StreamQ.on(RefusingStore(trio_time), InlineBridge())

    @app.task
    async def job() -> None: ...

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        handle = await job.put()
        with pytest.raises(StoreError, match="change stream"):
            await handle.result(timeout_s=1_000)
        nursery.cancel_scope.cancel()


async def test_stream_of_those_served_before_is_opened_again_when_a_wider_one_was_refused() -> None:
    """Nobody need ask for it: workers that were served go on being served."""
    store = RefusingStore(trio_time)
    app = StreamQ.on(store, InlineBridge(), safety_scan_s=None, lease_s=86_400)

    @app.task
    async def job() -> None: ...

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        handle = await job.put()
        with pytest.raises(StoreError):
            await handle.result()
        await trio.sleep(2 * PAUSE_S[1])
        new = job.new()
        store.put([new])  # as another process does
        await trio.testing.wait_all_tasks_blocked()
        assert store.documents[new.id]["status"] == "succeeded"
        assert (store.opened, store.refused) == (2, 1)
        nursery.cancel_scope.cancel()


class EndingFeed(MemoryFeed):
    """A feed that ends at its next read."""

    def read(self) -> Any:
        raise FeedEnded("the stream has ended")


class StoreOfEndingFeeds(MemoryStore):
    """A store all of whose streams end once `end` was called, and which notes when each was opened from then on."""

    def __init__(self) -> None:
        super().__init__(trio_time)
        self.ending = False
        self.opened_at: list[float] = []

    def feed(self, interest: Interest, await_s: float | None = None) -> MemoryFeed:
        if not self.ending:
            return super().feed(interest, await_s)
        self.opened_at.append(trio.current_time())
        feed = EndingFeed(interest, self.feeds.remove)
        self.feeds.append(feed)
        return feed

    def end(self) -> None:
        """End the open stream, and each that is opened after it."""
        self.ending = True
        for feed in self.feeds:
            feed.__class__ = EndingFeed
            feed.tell(Wake("member"))


async def test_stream_that_ends_at_each_read_is_opened_again_with_growing_pauses() -> None:
    """Each opening is a majority write and a scan: without pauses they would be a storm."""
    store = StoreOfEndingFeeds()
    app = StreamQ.on(store, InlineBridge())

    @app.task
    async def job() -> None: ...

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        store.opened_at.append(trio.current_time())
        store.end()
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    pauses = [later - sooner for sooner, later in itertools.pairwise(store.opened_at)]
    shortest, longest = PAUSE_S
    assert pauses[0] == 0  # most often a single event has ended the stream
    assert len(pauses) >= 100 / (1.5 * longest)
    for turn, pause in enumerate(pauses[1:]):
        wanted = min(shortest * 2**turn, longest)
        assert 0.5 * wanted <= pause + 1e-9
        assert pause <= 1.5 * wanted + 1e-9


# --- ends of tasks ---------------------------------------------------------------------------------------------


async def test_waiters_look_a_few_at_a_time_when_many_begin_to_wait() -> None:
    """Leases, claims and settlements go through the same threads, and must not queue behind thousands of looks."""
    bridge = GatedBridge("wait_for")
    app = StreamQ.on(MemoryStore(trio_time), bridge)
    async with app, trio.open_nursery() as nursery:
        handles = await app.queue("q").put_many(range(200))
        for handle in handles:
            nursery.start_soon(handle.wait)
        await trio.testing.wait_all_tasks_blocked()
        assert bridge.in_flight == LOOKS_AT_ONCE
        bridge.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert bridge.calls["wait_for"] == len(handles)
        assert bridge.most_in_flight == LOOKS_AT_ONCE
        nursery.cancel_scope.cancel()


async def test_waiting_by_a_bare_id_is_refused_when_the_task_is_deleted_at_its_success() -> None:
    """Its end is told to nobody, so the wait would end as if the task had never been."""
    app = memory_app(keep_s=0)
    async with app:
        put = await app.queue("q").put(1)
        with pytest.raises(UsageError, match="keep_s=0"):
            await app.handle(put.id).wait()


# --- instants --------------------------------------------------------------------------------------------------


async def test_longer_lease_of_a_newcomer_does_not_hide_the_end_of_a_shorter_one() -> None:
    """While a member of the shorter lease lives, its claims may end any such while: schedulers look as often."""
    store = MemoryStore(trio_time)
    short = StreamQ.on(store, InlineBridge(), lease_s=1, safety_scan_s=None)
    long = StreamQ.on(store, InlineBridge(), lease_s=3_600, safety_scan_s=None)

    @short.task(queue="of-short")
    async def job() -> None: ...

    @long.task(queue="of-long", name="job")
    async def job_of_long() -> None: ...

    async with short, long, trio.open_nursery() as nursery:
        await nursery.start(short.work)
        await trio.sleep(16)  # past a beat: the next one is far
        await nursery.start(long.work)
        await trio.sleep(2)
        handle = await short.queue("q").put(1)
        store.claim(Ask("q", 1, b"x" * 16, 1.0, "a worker that dies"))
        await trio.sleep(2.5)
        assert await handle.status() == "ready"
        nursery.cancel_scope.cancel()


async def test_scheduler_looks_rarely_again_when_the_shortest_lease_has_left() -> None:
    """The whole list of members, read at each beat, is what tells that it has."""
    bridge = GatedBridge("")
    store = MemoryStore(trio_time)
    short = StreamQ.on(store, InlineBridge(), lease_s=1, safety_scan_s=None)
    long = StreamQ.on(store, bridge, lease_s=3_600, safety_scan_s=None)

    @short.task(queue="of-short")
    async def job() -> None: ...

    @long.task(queue="of-long", name="job")
    async def job_of_long() -> None: ...

    async with long, trio.open_nursery() as nursery:
        await nursery.start(long.work)
        async with short, trio.open_nursery() as brief:
            await brief.start(short.work)
            await trio.sleep(20)
            brief.cancel_scope.cancel()
        await trio.sleep(20)
        before = bridge.calls["tick"]
        assert before > 15  # as often as the short lease asked for
        await trio.sleep(600)
        assert bridge.calls["tick"] - before <= 1
        nursery.cancel_scope.cancel()
