"""The releaser: sleeps until the next delayed task is due, releases what is, and wakes this process's own takers.

Beside the scheduler, which it is told the first instants by: what a scheduler's look does may wait for a majority, and
a task that is due is not to wait behind it. Every worker has one; by rank the others stand by as for the scheduler.

    due ──→ release_due (w:1) ──→ own intakes look at their queues ──→ due …
                              └──→ flush, one in flight: then the streams tell the others
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from streamq.bridge import Bridge
from streamq.core.member import Roster
from streamq.core.wake import Wake
from streamq.errors import StoreError
from streamq.runtime import clock
from streamq.runtime.journal import Journal
from streamq.store.contract import Released, Store

PAUSE_S: Final = (0.1, 5.0)
"""Shortest and longest pause after an error, doubling, jittered."""


Claim = Callable[[Sequence[Wake]], Sequence[object]]
"""From what was released to what trio is to be told: what was claimed at once, else the wakes."""


class Releaser:
    """Runs as two tasks, `run` and `flush`; `hear` may be called at any time."""

    def __init__(
        self, store: Store, bridge: Bridge, claim: Claim, deliver: Callable[[Sequence[object]], None], journal: Journal
    ) -> None:
        """`claim` is called in the thread that released; `deliver` in trio's, with what that returned."""
        self._store = store
        self._bridge = bridge
        self._claim = claim
        self._deliver = deliver
        self._journal = journal
        self._stand_by_s = 0.0
        self._look_at = float("inf")
        self._sleep: trio.CancelScope | None = None
        self._unflushed = False
        self._flusher = trio.lowlevel.ParkingLot()

    def join(self, roster: Roster) -> None:
        """Learn this worker's rank."""
        self._stand_by_s = roster.stand_by_s

    def hear(self, due_in_s: float) -> None:
        """Learn that a task is due in so many seconds."""
        self._sooner(clock.now() + due_in_s + self._stand_by_s)

    async def run(self) -> None:
        """Release for ever. Cancellation: safe; a release in flight is waited for."""
        pause_s = PAUSE_S[0]
        while True:
            with trio.CancelScope(deadline=self._look_at) as self._sleep:
                await trio.sleep_forever()
            self._look_at = float("inf")
            sent_at = clock.now()
            try:
                released, items = await self._bridge.call(self._release)
                pause_s = PAUSE_S[0]
            except StoreError as error:
                self._journal.write("store error", doing="release", error=error)
                self._sooner(clock.now() + clock.jittered(pause_s))
                pause_s = min(pause_s * 2, PAUSE_S[1])
                continue
            self._note(released, items, sent_at)

    async def flush(self) -> None:
        """Hasten what the streams tell of releases, for ever. Cancellation: safe; a write in flight is waited for."""
        while True:
            if not self._unflushed:
                await self._flusher.park()
                continue
            self._unflushed = False
            try:
                await self._bridge.call(self._store.flush)
            except StoreError as error:
                # Nothing is owed: the server comes to it by itself, or takes the releases back and they are due again.
                self._journal.write("store error", doing="flush releases", error=error)

    def _release(self) -> tuple[Released, Sequence[object]]:
        released = self._store.release_due()
        return released, self._claim(released.wakes)

    def _note(self, released: Released, items: Sequence[object], sent_at: float) -> None:
        self._deliver(items)
        if released.next_s is not None:
            # The server counted after `sent_at`: a look that comes a moment too soon is cheaper than one too late. What
            # one step left over is next at once.
            more = released.wakes and released.next_s <= 0
            self._sooner(sent_at + released.next_s + (0.0 if more else self._stand_by_s))
        for refused in released.refused:
            self._journal.write_once("task cannot be moved", refused.id, doing="release", error=refused.said)
        if released.wakes:
            self._journal.add("released", len(released.wakes))
            self._unflushed = True
            self._flusher.unpark_all()

    def _sooner(self, at: float) -> None:
        self._look_at = min(self._look_at, at)
        if self._sleep is not None:
            self._sleep.deadline = self._look_at
