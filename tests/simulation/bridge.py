"""The bridge of a simulated process: calls travel to the server and their answers back, each in its own time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, TypeVarTuple, cast

import outcome
import trio

from streamq.bridge import Swift, Turn, Turns
from streamq.errors import StoreError
from streamq.store.contract import Feed
from tests.simulation.process import Process
from tests.simulation.stream import Reader, Stream
from tests.simulation.wire import Slow
from tests.simulation.world import Action

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Place:
    """One call's in a line: the next is sent when its answer is there."""

    def __init__(self) -> None:
        self.through = False
        self.then: Action | None = None


class LaggingBridge:
    """See `streamq.bridge.Bridge`."""

    def __init__(self, process: Process, *, swift: bool) -> None:
        self._process = process
        self._swift = swift
        self._aside = trio.Semaphore(1)
        self._last: dict[Turns, Place] = {}

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Bridge.call`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        return cast(T, await self._trip(functools.partial(function, *args)))

    async def in_turn(self, turns: Turns, function: Callable[[Turn], T]) -> T:
        """See `Bridge.in_turn`. Here a call is through before the next is sent."""
        await trio.lowlevel.checkpoint_if_cancelled()
        before, mine = self._last.get(turns), Place()
        self._last[turns] = mine
        turn = turns.draw()
        try:
            return cast(T, await self._trip(functools.partial(function, turn), before, mine))
        finally:
            turn.end()

    async def aside(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Bridge.aside`."""
        async with self._aside:
            return await self.call(function, *args)

    async def _trip(self, call: Callable[[], object], before: Place | None = None, mine: Place | None = None) -> Any:
        process, task, sent_at = self._process, trio.lowlevel.current_task(), self._process.world.now
        made: list[Any] = []

        def arrive() -> None:
            made.clear()
            answer = process.at_server(lambda: made.append(outcome.capture(call)), sent_at, may_wait=True)
            slow = getattr(made[0], "error", None)
            if isinstance(slow, Slow):
                process.send(arrive, slow.seconds)
            elif answer is None:  # of something that asks nobody
                process.world.after(0.0, lambda: process.tell(reply))
            else:
                answer(reply)

        def reply() -> None:
            if mine is not None:
                mine.through = True
                if mine.then is not None:
                    mine.then()
            trio.lowlevel.reschedule(task, made[0])

        def leave() -> None:
            process.send(arrive, process.lag())

        if before is None or before.through:
            leave()
        else:
            before.then = leave
        return await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    async def follow(
        self, feed: Feed, swift: Swift, deliver: Callable[[Sequence[object]], None], ring: Callable[[], None]
    ) -> None:
        """See `Bridge.follow`."""
        assert isinstance(feed, Stream)
        reader = Reader(self._process, swift if self._swift else None)
        feed.read_by(reader)
        try:
            while feed.error is None:
                _deliver_all(reader, deliver)
                await reader.lot.park()
            raise feed.error
        finally:
            with trio.CancelScope(shield=True):
                await self._end(feed, reader, deliver, ring)

    async def _end(
        self, feed: Stream, reader: Reader, deliver: Callable[[Sequence[object]], None], ring: Callable[[], None]
    ) -> None:
        if feed.error is None:
            with contextlib.suppress(StoreError):
                await self.call(ring)
        while reader.busy:
            await reader.lot.park()
        feed.close()
        _deliver_all(reader, deliver)  # what was claimed by then must be told


def _deliver_all(reader: Reader, deliver: Callable[[Sequence[object]], None]) -> None:
    batch = list(reader.inbox)
    reader.inbox.clear()
    if batch:
        deliver(batch)
