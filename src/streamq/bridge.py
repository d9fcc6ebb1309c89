"""Between trio and blocking calls: the only place with threads.

It knows trio and sees store methods as plain callables. A call in a thread is never abandoned: it may have taken
or given up a claim, so its caller waits for the answer even when cancelled; how long that can last is bounded by
the store's own deadline (a trio deadline cannot end a thread).
"""

from __future__ import annotations

import contextvars
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar, TypeVarTuple

import trio

from streamq.core.claim import Ids
from streamq.core.wake import Wake
from streamq.errors import StoreError
from streamq.store.contract import Feed

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Swift = Callable[[Wake], object | None]

NOTHING: Final = object()
"""What `swift` returns when nobody has to be told of the wake."""

Deliver = Callable[[Sequence[object]], None]

CALLS_AT_ONCE: Final = 16
"""Threads for store calls. Claims, settles, puts and beats are one in flight each, so few are ever used; more would
only queue at the interpreter's lock."""

FEEDS_AT_ONCE: Final = 4
"""Threads that read feeds: the stream and the wake channel, of two apps that share a bridge."""

SWIFT_IN_A_ROW: Final = 3
"""Wakes answered in the feed's thread while trio has not looked. One would leave the tasks that come after a stall of
the server to a claim by way of trio, milliseconds later (p99.5 of the pickup 27 against 21 ms in one interleaved run);
for a burst one claim for all is cheaper than many."""


GIVE_WAY_S: Final = 0.0002
"""How long the feed's thread stands back once it has poked trio: the driver's next request takes the interpreter's lock
for about as long. From claim to handler p50 0.40 against 0.67 ms (medians of three interleaved runs of each)."""


class Turn:
    """A call's place in a line. It may let the next begin before it is through, and say what it is still at."""

    def __init__(self, before: Turn | None = None) -> None:
        self._before = before
        self._passed = threading.Event()
        self._at: Ids = ()

    def wait(self) -> None:
        """Wait until the one before lets this one begin."""
        if self._before is not None:
            self._before._passed.wait()

    @property
    def beside(self) -> Ids:
        """What the one before is still at."""
        return () if self._before is None else self._before._at

    def pass_on(self, at: Ids) -> None:
        """Let the next begin; it is to leave alone what this one is still `at`."""
        self._at = at
        self._passed.set()

    def end(self) -> None:
        """Be through."""
        self._at, self._before = (), None
        self._passed.set()


class Turns:
    """The order of calls that go one after the other: each waits in its thread for the one before it, so that the next
    begins without trio having heard of the answer."""

    def __init__(self) -> None:
        self._last: Turn | None = None

    def draw(self) -> Turn:
        """Join the line. In trio's thread."""
        self._last = Turn(self._last)
        return self._last


class Bridge(Protocol):
    """What the runtime needs to reach a store."""

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call a blocking store method. Cancellation: never abandoned, the result is returned."""

    async def in_turn(self, turns: Turns, function: Callable[[Turn], T]) -> T:
        """`call` with its turn, once those that were made before with the same `turns` are through or have passed the
        turn on."""

    async def aside(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """`call` for what may wait: looks at what is stored, one after the other, however many want one. Besides
        claims, settlements and the stream they would each have a thread, and threads of Python hold each other up."""

    async def follow(self, feed: Feed, swift: Swift, deliver: Deliver, ring: Callable[[], None]) -> None:
        """Hand over the wakes of `feed`, in batches, until cancelled; then stop it by `ring`.

        `swift` is called with each wake in the thread that reads the feed, may block, and must not raise; what it
        returns is delivered instead of the wake (None: the wake itself; `NOTHING`: nothing at all). A bridge without
        threads leaves it out.
        `deliver` runs in trio's thread, must not block and must not raise. Raises the `StoreError` the feed ended
        with. The feed is closed in any case.
        """


class ThreadBridge:
    """Calls in worker threads, one further thread for each followed feed."""

    def __init__(self) -> None:
        self._calls = trio.Semaphore(CALLS_AT_ONCE)
        self._looks = trio.Semaphore(1)
        # Of its own, so that neither handlers nor store calls can starve the stream.
        self.feeds = trio.CapacityLimiter(FEEDS_AT_ONCE)

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Bridge.call`."""
        return await _in_thread(self._calls, function, *args)

    async def in_turn(self, turns: Turns, function: Callable[[Turn], T]) -> T:
        """See `Bridge.in_turn`."""

        def run() -> T:
            turn.wait()
            try:
                return function(turn)
            finally:
                turn.end()

        await trio.lowlevel.checkpoint_if_cancelled()
        turn = turns.draw()
        with trio.CancelScope(shield=True):  # a turn that was drawn must come, or those behind it would wait for ever
            answer = [await self.call(run)]
        return answer[0]

    async def aside(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Bridge.aside`."""
        return await _in_thread(self._looks, function, *args)

    async def follow(self, feed: Feed, swift: Swift, deliver: Deliver, ring: Callable[[], None]) -> None:
        """See `Bridge.follow`. The thread ends when it reads the bell that `ring` wrote; with the server away,
        when its getMore fails or comes back."""
        pump = _Pump(feed, swift, deliver)
        ended = False
        caught: StoreError | None = None

        async def run() -> None:
            nonlocal ended, caught
            try:
                # Shielded, so that it begins in any case: the pump is what closes the feed.
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(pump.run, limiter=self.feeds)
            except StoreError as error:
                caught = error
            ended = True
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            try:
                await trio.sleep_forever()
            finally:
                if not ended:
                    pump.stopping = True
                    with trio.CancelScope(shield=True):
                        await self._ring(ring)
        if caught is not None:
            raise caught

    async def _ring(self, ring: Callable[[], None]) -> None:
        try:
            await self.call(ring)
        except StoreError:
            return  # the server is away: the thread's own read fails or comes back, and sees `stopping`


async def _in_thread(places: trio.Semaphore, function: Callable[[*Ts], T], *args: *Ts) -> T:
    """`trio.to_thread.run_sync`, without what no store call needs, a third of the way there and back: a turn of trio's
    loop before it, and a thread that knows how to call trio and is named for the call.

    Cancellation: before the thread begins, or not at all.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        places.acquire_nowait()
    except trio.WouldBlock:
        await places.acquire()
    try:
        return await _threaded(functools.partial(contextvars.copy_context().run, function, *args))
    finally:
        places.release()


@trio.lowlevel.enable_ki_protection
async def _threaded(job: Callable[[], T]) -> T:
    task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
    trio.lowlevel.start_thread_soon(job, lambda answer: token.run_sync_soon(trio.lowlevel.reschedule, task, answer))
    answer: T = await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
    return answer


class _Pump:
    """The thread that reads one feed. Wakes gather in a deque; trio is poked only if no poke is pending, so that a
    burst arrives as one batch."""

    def __init__(self, feed: Feed, swift: Swift, deliver: Deliver) -> None:
        self.stopping = False
        self._feed = feed
        self._swift = swift
        self._deliver = deliver
        self._inbox: deque[object] = deque()
        self._poked = False
        self._token = trio.lowlevel.current_trio_token()

    def run(self) -> None:
        ahead = 0
        try:
            while not self.stopping:
                wake = self._feed.read()
                if wake is None:
                    continue
                if wake.kind == "bell":
                    return
                if not self._inbox:
                    ahead = SWIFT_IN_A_ROW
                early = self._swift(wake) if ahead else None
                if early is NOTHING:
                    continue
                # Behind a wake that is still to be told nothing is claimed ahead of it: it came first.
                ahead = ahead - 1 if early else 0
                self._inbox.append(early or wake)
                if not self._poked:
                    self._poked = True
                    self._token.run_sync_soon(self._drain)
                    # For no order's sake: the next read would hold the interpreter's lock against trio's thread.
                    time.sleep(GIVE_WAY_S)
        finally:
            self._feed.close()

    def _drain(self) -> None:
        # Lowered before the inbox is emptied: a wake that comes in between pokes once more, for nothing, whereas the
        # other order could leave it lying.
        self._poked = False
        batch = []
        while self._inbox:
            batch.append(self._inbox.popleft())
        if batch:
            self._deliver(batch)


class InlineBridge:
    """No threads: calls run in place, feeds poke through a callback. For `MemoryStore`, under trio's autojump clock,
    which does not count a busy thread as busy."""

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Bridge.call`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        result = function(*args)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return result

    async def in_turn(self, turns: Turns, function: Callable[[Turn], T]) -> T:
        """See `Bridge.in_turn`; here a call is through before the next can be made."""
        return await self.call(function, Turn())

    async def aside(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Bridge.aside`."""
        return await self.call(function, *args)

    async def follow(self, feed: Feed, swift: Swift, deliver: Deliver, ring: Callable[[], None]) -> None:
        """See `Bridge.follow`. `feed` must be a `MemoryFeed` (it has `on_wake`)."""
        lot = trio.lowlevel.ParkingLot()
        feed.on_wake = lot.unpark  # type: ignore[attr-defined]
        try:
            while True:
                batch = []
                while (wake := feed.read()) is not None:
                    batch.append(wake)
                if batch:
                    deliver(batch)
                await lot.park()
        finally:
            feed.close()
