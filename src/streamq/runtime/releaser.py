"""The releaser: sleeps until the next delayed task is due, and brings what is to this process's own takers, or to all.

Beside the scheduler, which it is told the first instants by: what a scheduler's look does may wait for a majority, and
a task that is due is not to wait behind it. Every worker has one; by rank the others stand by as for the scheduler.

    due? ──→ a few, and takers wait: claimed by id, here and now ──→ the takers ──→ due? …
         └─→ else release_due (w:1) ──→ own intakes claim ──→ due? …
                                    └─→ flush, one in flight: then the streams tell the others
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from streamq.bridge import Bridge
from streamq.core.member import Roster
from streamq.core.wake import Wake
from streamq.errors import StoreError
from streamq.runtime import clock
from streamq.runtime.alarm import Alarm
from streamq.runtime.intake import Early
from streamq.runtime.journal import Journal
from streamq.store.contract import Due, Released, Store

CLAIMED_IN_A_ROW: Final = 2
"""Due tasks that are claimed one by one, if takers wait for them: a trip each. More are released by one statement for
all, and claimed by two."""


class Done(msgspec.Struct, frozen=True):
    """What one look came to: what was claimed at once, whom to wake for the rest, and what went wrong."""

    due: Due
    early: Sequence[Early]
    wakes: Sequence[Wake]
    released: Released
    error: StoreError | None = None


class Releaser:
    """Runs as two tasks, `run` and `flush`; `hear` may be called at any time."""

    def __init__(
        self,
        store: Store,
        bridge: Bridge,
        claim: Callable[[Wake], Early | None],
        deliver: Callable[[Sequence[object]], None],
        journal: Journal,
    ) -> None:
        """`claim` is called in the thread that looks; `deliver` in trio's, with what it obtained and other wakes."""
        self._store = store
        self._bridge = bridge
        self._claim = claim
        self._deliver = deliver
        self._journal = journal
        self._stand_by_s = 0.0
        self._alarm = Alarm(float("inf"))
        self._unflushed = False
        self._flusher = trio.lowlevel.ParkingLot()

    def join(self, roster: Roster) -> None:
        """Learn this worker's rank."""
        self._stand_by_s = roster.stand_by_s

    def hear(self, due_in_s: float) -> None:
        """Learn that a task is due in so many seconds."""
        self._alarm.sooner(clock.now() + due_in_s + self._stand_by_s)

    async def run(self) -> None:
        """Release for ever. Cancellation: safe; a release in flight is waited for."""
        while True:
            await self._alarm.wait()
            sent_at = clock.now()
            try:
                done = await self._bridge.call(self._release)
                self._note(done, sent_at)
                if done.error is not None:
                    raise done.error
                self._alarm.went_well()
            except StoreError as error:
                self._journal.write("store error", doing="release", error=error)
                self._alarm.failed()

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

    def _release(self) -> Done:
        """Look, and see to what is due. In a thread: what has been claimed must be told in any case."""
        due = self._store.due()
        tried = [self._claim(wake) for wake in due.wakes] if len(due.wakes) <= CLAIMED_IN_A_ROW else []
        early = [one for one in tried if one is not None]
        mine = {one.wake.id for one in early if one.claimed is not None and one.claimed.claims}
        rest = [wake for wake in due.wakes if wake.id not in mine]
        ids = [*(wake.id for wake in rest if wake.id is not None), *due.others]
        try:
            released = self._store.release_due(ids) if ids else Released(0)
        except StoreError as error:
            return Done(due, early, (), Released(0), error)
        return Done(due, early, rest, released)

    def _note(self, done: Done, sent_at: float) -> None:
        self._deliver([*done.early, *done.wakes])
        released, next_s = done.released, done.due.next_s
        if released.again_s is not None:
            # What is refused stays due. If nothing else was there, the next look waits too.
            stuck = next_s is None or (next_s <= 0 and not released.moved)
            next_s = released.again_s if next_s is None or stuck else min(next_s, released.again_s)
        if next_s is not None:
            # The server counted after `sent_at`: a look that comes a moment too soon is cheaper than one too late. What
            # one step left over is next at once.
            self._alarm.sooner(sent_at + next_s + (0.0 if next_s <= 0 else self._stand_by_s))
        for refused in released.refused:
            self._journal.write_once("task cannot be moved", refused.id, doing="release", error=refused.said)
        if released.moved:
            self._journal.add("released", released.moved)
            self._unflushed = True
            self._flusher.unpark_all()
