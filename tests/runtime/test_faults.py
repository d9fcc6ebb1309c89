"""Every store call fails once, before or after its effect, at every place of a scripted run: the runtime recovers, with
every task settled, nothing run that should not be, and nothing left open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final, cast

import pytest
import trio
from bson import ObjectId

from streamq import ClaimError, OutcomeUnknown, PutUnknown, Retry, Snooze, StoreError, StreamQ, TaskGone
from streamq.bridge import InlineBridge
from streamq.core.claim import Ask
from streamq.core.wake import Wake
from streamq.errors import ClaimUnknown, FeedEnded, StoreUnavailable
from streamq.store.memory import MemoryStore
from streamq.store.memory_feed import MemoryFeed
from streamq.testing import trio_time

MakeError = Callable[[str, tuple[Any, ...], Any], StoreError]
"""From a method's name, its arguments and its result (None when it took no effect) to the error it fails with."""


def unavailable(method: str, args: tuple[Any, ...], result: Any) -> StoreError:
    return StoreUnavailable(f"{method}: no primary")


def unknown(method: str, args: tuple[Any, ...], result: Any) -> StoreError:
    """The error by which this method says that its outcome is not known."""
    if method == "put":
        return PutUnknown([one.id for one in args[0]], "no majority")
    if method == "claim":
        ask: Ask = args[0]
        ids = [claim.id for claim in result.claims] if result is not None else []
        return ClaimUnknown(ask.queue, ask.claim_id, tuple(ids) or (ObjectId(),), 10.0, "no reply")
    return OutcomeUnknown(f"{method}: no reply")


class FaultyStore(MemoryStore):
    """A store of which one method fails at its `at`-th call, `times` times, before or after it took effect."""

    METHODS: Final = (
        *(
            "put",
            "claim",
            "abandon",
            "extend",
            "settle",
            "tick",
            "due",
            "release_due",
            "flush",
            "beat",
            "leave",
            "feed",
        ),
        *("get", "wait_for"),
    )

    def __init__(self, method: str, at: int, make: MakeError, *, after: bool, times: int = 1) -> None:
        super().__init__(trio_time)
        self.calls: Counter[str] = Counter()
        self.failures = 0
        self._fault = method
        self._at = range(at, at + times)
        self._make = make
        self._after = after
        for name in self.METHODS:
            setattr(self, name, self._watched(name, getattr(self, name)))

    def _watched(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.calls[name] += 1
            failing = name == self._fault and self.calls[name] in self._at
            self.failures += failing
            if failing and not self._after:
                raise self._make(name, args, None)
            result = method(*args, **more)
            if failing:
                if name == "feed":  # the server's cursor: nobody here knows it
                    cast(MemoryFeed, result).close()
                raise self._make(name, args, result)
            return result

        return call


class Script:
    """A run that meets every kind of end, and what must be true of it whatever fails."""

    def __init__(self, store: FaultyStore) -> None:
        self.store = store
        self.runs: Counter[str] = Counter()
        # Without the safety scan, which would hide what was forgotten.
        self.app = StreamQ.on(
            store, InlineBridge(), lease_s=30, safety_scan_s=None, retry=Retry(max_attempts=20, first_s=1, cap_s=1)
        )
        self._declare()

    def _declare(self) -> None:
        @self.app.task
        async def fine(name: str) -> str:
            self.runs[name] += 1
            await trio.sleep(1)
            return name

        @self.app.task
        async def flaky(name: str) -> str:
            self.runs[name] += 1
            if self.runs[name] == 1:
                raise ValueError("first")
            return name

        @self.app.task
        async def sleepy(name: str) -> str:
            self.runs[name] += 1
            if self.runs[name] == 1:
                raise Snooze(5)
            await trio.sleep(40)  # longer than the lease
            return name

        @self.app.task(retry=Retry(max_attempts=1))
        async def once(name: str) -> str:
            self.runs[name] += 1
            await trio.sleep(1)
            return name

        self.fine, self.flaky, self.sleepy, self.once = fine, flaky, sleepy, once

    async def run(self) -> None:
        news = {
            "fine": self.fine.new("fine"),
            "fine 2": self.fine.new("fine 2"),
            "gone": self.fine.options(keep_s=0).new("gone"),
            "flaky": self.flaky.new("flaky"),
            "sleepy": self.sleepy.new("sleepy"),
            "once": self.once.new("once"),
            "once 2": self.once.new("once 2"),
            "late": self.fine.options(delay_s=7).new("late"),
        }
        async with self.app, trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: self.app.work(concurrency=4, task_status=task_status))
            for new in news.values():
                await self._put(new)
            nursery.start_soon(self._consume)
            await self._put(self.app.queue("bare").new("bare"))
            for name, new in news.items():
                if name != "gone":
                    await self._ended(new.id)
            await trio.sleep(100)
            nursery.cancel_scope.cancel()
        self.check()

    async def _put(self, new: Any) -> None:
        """Put until it is known to be stored, as the errors say one may."""
        while True:
            try:
                await self.app.services().putter.put(new)
            except (PutUnknown, StoreUnavailable):
                await trio.sleep(0.1)
            else:
                return

    async def _ended(self, id: ObjectId) -> None:
        while True:
            try:
                await self.app.handle(id).wait()
            except StoreError:
                await trio.sleep(0.1)
            else:
                return

    async def _consume(self) -> None:
        while True:
            try:
                async with self.app.queue("bare").consume(prefetch=2) as tasks:
                    async for task in tasks:
                        async with task:
                            self.runs[task.payload] += 1
                            await trio.sleep(1)
            except (StoreError, ClaimError):
                await trio.sleep(0.1)

    def check(self) -> None:
        ends = {id: one["status"] for id, one in self.store.documents.items()}
        assert set(ends.values()) == {"succeeded"}, self.store.documents
        assert len(ends) == 8  # nine tasks less the one that is deleted
        assert self.runs["once"] == self.runs["once 2"] == 1
        assert all(self.runs[name] >= 1 for name in ("fine", "fine 2", "gone", "bare", "late"))
        assert self.runs["flaky"] >= 2
        assert not self.store.feeds


async def run_with(store: FaultyStore) -> FaultyStore:
    await Script(store).run()
    return store


READS_AND_ROWS = ("beat", "leave", "feed", "get", "wait_for", "tick", "due", "release_due", "flush", "extend")
"""Their callers repeat them whatever happened, so `StoreUnavailable` is all they say."""

CASES = [
    *[(method, False, unavailable) for method in FaultyStore.METHODS],
    *[(method, True, unavailable) for method in READS_AND_ROWS],
    *[(method, after, unknown) for method in ("put", "claim", "settle", "abandon") for after in (False, True)],
]


async def test_script_ends_well_without_faults_and_runs_each_task_no_more_than_it_must() -> None:
    script = Script(FaultyStore("none", 0, unavailable, after=False))
    await script.run()
    assert script.runs == {
        "fine": 1,
        "fine 2": 1,
        "gone": 1,
        "flaky": 2,
        "sleepy": 2,
        "once": 1,
        "once 2": 1,
        "late": 1,
        "bare": 1,
    }
    assert script.store.members == {}


@pytest.mark.parametrize(
    ("method", "after", "make"), CASES, ids=[f"{one}-{'after' if after else 'before'}" for one, after, _ in CASES]
)
async def test_each_call_may_fail_at_any_place(method: str, after: bool, make: MakeError) -> None:
    places = 0
    for at in range(1, 16):
        store = await run_with(FaultyStore(method, at, make, after=after))
        if not store.failures:
            break
        places += 1
    assert places or method in ("abandon", "get")  # called only after an unknown claim, or not by this script


@pytest.mark.parametrize("method", ["claim", "settle", "beat", "feed", "tick", "due", "extend"])
async def test_calls_may_fail_many_times_in_a_row(method: str) -> None:
    store = await run_with(FaultyStore(method, 2, unavailable, after=False, times=6))
    assert store.failures == 6


async def test_unknown_claim_is_given_back_sooner_than_its_lease_and_uncounted() -> None:
    store = FaultyStore("claim", 1, unknown, after=True)
    app = StreamQ.on(store, InlineBridge(), lease_s=86_400)

    @app.task(retry=Retry(max_attempts=1))
    async def once() -> float:
        return trio.current_time()

    async with app, trio.open_nursery() as nursery:
        new = once.new()
        store.documents.clear()
        await app.put_many([new])
        began_at = trio.current_time()
        await nursery.start(app.work)
        assert await app.handle(new.id).result() - began_at <= 15
        nursery.cancel_scope.cancel()
    assert store.failures == 1
    assert store.documents[new.id]["attempt"] == 1


class EndingFeed(MemoryFeed):
    """A feed that ends after some reads, as when its collection is dropped."""

    reads_left = 3

    def read(self) -> Any:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise FeedEnded("dropped")
        return super().read()


class StoreOfEndingFeeds(MemoryStore):
    opened = 0

    def feed(self, interest: Any, await_s: float | None = None) -> MemoryFeed:
        self.opened += 1
        feed = EndingFeed(interest, self.feeds.remove)
        self.feeds.append(feed)
        return feed


async def test_stream_that_keeps_ending_is_opened_again_and_loses_no_put() -> None:
    store = StoreOfEndingFeeds(trio_time)
    here = StreamQ.on(store, InlineBridge(), safety_scan_s=None)
    elsewhere = StreamQ.on(store, InlineBridge())

    @here.task
    async def note(number: int) -> int:
        return number

    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        for number in range(20):
            await trio.sleep(10)
            new = note.new(number)
            await elsewhere.put_many([new])
            assert await here.handle(new.id).result(timeout_s=10) == number
        nursery.cancel_scope.cancel()
    assert store.opened >= 5
    assert here.journal.counts["stream lost, trying again"] >= 5
    assert not store.feeds


class StoreOfGaps(StoreOfEndingFeeds):
    """Between two streams there is a while in which none can be opened."""

    refusals = 0

    def feed(self, interest: Any, await_s: float | None = None) -> MemoryFeed:
        if self.refusals > 0:
            self.refusals -= 1
            raise StoreUnavailable("no primary")
        self.refusals = 5
        return super().feed(interest, await_s)

    def disturb(self) -> None:
        """Let the open stream be read until it ends."""
        for feed in self.feeds:
            feed.tell(Wake("delayed", due_in_s=10**6))


async def test_put_while_no_stream_is_open_is_found_when_one_is() -> None:
    """Nothing tells of it: only the look that follows every opening finds it."""
    store = StoreOfGaps(trio_time)
    here = StreamQ.on(store, InlineBridge(), safety_scan_s=None, lease_s=86_400)

    @here.task
    async def note(number: int) -> int:
        return number

    async with here, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        for number in range(5):
            with trio.fail_after(600):
                while store.feeds:
                    store.disturb()
                    await trio.sleep(1)
            new = note.new(number)
            store.put([new])
            await trio.sleep(60)
            assert store.documents[new.id]["status"] == "succeeded"
        nursery.cancel_scope.cancel()


async def test_task_of_unknown_outcome_that_is_gone_is_told_so() -> None:
    app = StreamQ.on(MemoryStore(trio_time), InlineBridge())
    async with app:
        with pytest.raises(TaskGone):
            await app.handle(ObjectId()).status()
