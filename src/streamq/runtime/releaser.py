"""The releaser: sleeps until the next delayed task is due, and brings what is to this process's own takers, or to all.

Beside the scheduler, which it is told the first instants by: what a scheduler's look does may wait for a majority, and
a task that is due is not to wait behind it. Every worker has one; by rank the others stand by as for the scheduler.

    due? ──→ a few, and takers wait: claimed as they were read, here and now ──→ the takers ──→ due? …
         ├─→ else release_due (w:1) ──→ own intakes claim ──→ due? …
         │                          └─→ flush, one in flight: then the streams tell the others
         └─→ a flood: the ids of many, released in parts, two in flight ──→ due? …

Of a flood the streams tell that its queues are to be looked at, once a part. An event for each task would cost every
process 25 µs, and what else the stream tells would wait behind them all. A worker may die between a part and that word;
so one task of each queue is released last: as long as it is due, whoever looks instead announces the queue before
anything else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from streamq.bridge import Bridge
from streamq.core.document import TaskDocument
from streamq.core.member import Roster
from streamq.core.wake import Wake
from streamq.errors import StoreError
from streamq.runtime import clock
from streamq.runtime.alarm import Alarm
from streamq.runtime.intake import Early
from streamq.runtime.journal import Journal
from streamq.store.contract import Due, Overdue, Released, Store

CLAIMS_IN_A_ROW: Final = 2
"""Queues of which due tasks are claimed one queue after the other, a trip each. What is due in more is released by one
statement for all, and each queue's own intake claims it."""

FEWEST_READ: Final = 4
MOST_READ: Final = 64
"""Delayed tasks that one look reads, by how many the one before found due: twice that and two more, so that mostly one
ahead is among them and few more are read for nothing. If all of the most are due, a flood has come: then only ids are
read. Who may claim each task, in what order, and a wake for each cost this process 10 µs a task."""

PART: Final = 500
"""Tasks of a flood that one statement releases: 25 to 50 ms of the server, after which others get their turn."""

PARTS_AT_ONCE: Final = 2
"""Statements of a flood in flight. One leaves the server idle while this process turns round, and where all cores are
busy it gets no more of them than one claim does; more would only take them away from those."""

EARLY_S: Final = 0.0005
NEAR_S: Final = 0.002
"""How much sooner than the server says the next look is sent, unless it is near anyway. The server cuts its clock to
whole ms, and epoll sleeps whole ms, rounded up: looks came 1 ms late on average, up to 2. Now one in eight comes too
soon and is followed by another at once."""

MOST_ANNOUNCED: Final = 4
"""Queues of a flood that are told of so, by a statement each after each part. In more of them each task is told of."""

TaskWake = tuple[Wake, TaskDocument]


class Seen(msgspec.Struct, frozen=True):
    """What one look came to: what was claimed at once, what is to be released, and whom to wake for that. `next_s` is
    when to look again, None: nothing is ahead. `announced` are the queues of a flood, of which the streams tell instead
    of its tasks; `lasts` those of its tasks that are released when the others are."""

    early: Sequence[Early]
    ids: Sequence[object]
    wakes: Sequence[Wake]
    next_s: float | None
    announced: tuple[str, ...] = ()
    lasts: Sequence[object] = ()


class Releaser:
    """Runs as two tasks, `run` and `flush`; `hear` may be called at any time."""

    def __init__(
        self,
        store: Store,
        bridge: Bridge,
        is_idle: Callable[[], bool],
        claim: Callable[[str, Sequence[TaskWake]], Early | None],
        deliver: Callable[[Sequence[object]], None],
        journal: Journal,
    ) -> None:
        """`is_idle`, whether any taker waits, and `claim`, for those of one queue, are called in the thread that looks;
        `deliver` in trio's, with what was obtained and wakes."""
        self._store = store
        self._bridge = bridge
        self._is_idle = is_idle
        self._claim = claim
        self._deliver = deliver
        self._journal = journal
        self._stand_by_s = 0.0
        self._alarm = Alarm(float("inf"))
        self._most = FEWEST_READ
        self._failed = False
        self._owed: set[str] = set()  # queues of a flood that may have been released without a word
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
                seen = await self._bridge.call(self._look)
                self._deliver(seen.early)
                await self._make_good(seen)
                released = await self._release(seen)
                self._failed = False
                self._note(seen, released, sent_at)
                self._alarm.went_well()
            except StoreError as error:
                self._failed = True
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

    @property
    def _doubts(self) -> bool:
        """Whether a flood may have been released without a word, by this worker or by the one that it stands by."""
        return self._failed or self._stand_by_s > 0

    # --- in a thread --------------------------------------------------------------------------------------------

    def _look(self) -> Seen:
        """Look what is due, and claim what waits for nothing but a claim. What it has obtained must be told in any
        case, so nothing after it may fail."""
        most = self._most
        due = self._store.due(most, whole=self._is_idle() and not self._doubts)
        found = len(due.wakes) + len(due.others)
        self._most = max(FEWEST_READ, min(2 * found + 2, MOST_READ))
        if found == most == MOST_READ:
            return _flood(self._store.overdue(), aloud=self._stand_by_s > 0)
        early = self._claim_some(due)
        claimed = [claim.id for one in early if one.claimed is not None for claim in one.claimed.claims]
        rest = [wake for wake in due.wakes if wake.id not in claimed]
        return Seen(early, [*(wake.id for wake in rest), *due.others], rest, due.next_s)

    def _claim_some(self, due: Due) -> list[Early]:
        by_queue: dict[str, list[TaskWake]] = {}
        for wake, task in zip(due.wakes, due.found, strict=False):  # none was read whole unless takers wait
            if task is not None:
                by_queue.setdefault(wake.queue, []).append((wake, task))
        claimed: list[Early] = []
        for queue, tasks in by_queue.items():
            if len(claimed) < CLAIMS_IN_A_ROW and (one := self._claim(queue, tasks)) is not None:
                claimed.append(one)
        return claimed

    # --- in trio's thread ---------------------------------------------------------------------------------------

    async def _release(self, seen: Seen) -> Released:
        """Release in parts. An error ends it, when those in flight are through."""
        parts = deque(seen.ids[first : first + PART] for first in range(0, len(seen.ids), PART))
        done: list[Released] = []
        failed: list[StoreError] = []

        async def release() -> None:
            while parts and not failed:
                try:
                    one = await self._bridge.call(self._store.release_due, parts.popleft(), seen.announced)
                except StoreError as error:
                    failed.append(error)
                    return
                done.append(one)
                self._deliver(seen.wakes)
                self._tell(one)

        if len(parts) == 1:
            await release()
        elif parts:
            async with trio.open_nursery() as nursery:
                for _ in range(PARTS_AT_ONCE):
                    nursery.start_soon(release)
        if failed:
            self._owed |= set(seen.announced)
            raise failed[0]
        if seen.lasts:
            done.append(await self._bridge.call(self._store.release_due, seen.lasts))
            self._tell(done[-1])
        again_s = [one.again_s for one in done if one.again_s is not None]
        return Released(sum(one.moved for one in done), again_s=min(again_s, default=None))

    async def _make_good(self, seen: Seen) -> None:
        """Have all look at the queues of what is still due: others of them may be released without a word."""
        queues = set(self._owed)
        if self._doubts and not seen.announced:
            queues |= {wake.queue for wake in seen.wakes}
        if queues:
            await self._bridge.call(self._store.release_due, (), tuple(queues))
            self._owed.clear()
            self._deliver([Wake("ready", queue=queue) for queue in queues])

    def _tell(self, released: Released) -> None:
        for refused in released.refused:
            self._journal.write_once("task cannot be moved", refused.id, doing="release", error=refused.said)
        if released.moved:
            self._journal.add("released", released.moved)
            self._unflushed = True
            self._flusher.unpark_all()

    def _note(self, seen: Seen, released: Released, sent_at: float) -> None:
        next_s = seen.next_s
        if released.again_s is not None:
            # What is refused stays due. If nothing else was there, the next look waits too.
            stuck = next_s is None or (next_s <= 0 and not released.moved)
            next_s = released.again_s if next_s is None or stuck else min(next_s, released.again_s)
        if next_s is not None:
            # The server counted after `sent_at`: a look that comes a moment too soon is cheaper than one too late. What
            # one step left over is next at once.
            early_s = EARLY_S if next_s > NEAR_S else 0.0
            self._alarm.sooner(sent_at + next_s - early_s + (0.0 if next_s <= 0 else self._stand_by_s))


def _flood(overdue: Overdue, *, aloud: bool) -> Seen:
    # What is ahead is asked for when there is no more. Who stands by tells of each task: if it died before its word,
    # the first, who doubts nothing, would not make that good.
    wakes = [Wake("ready", queue=queue) for queue in overdue.queues]
    if aloud or len(overdue.queues) > MOST_ANNOUNCED:
        return Seen((), overdue.ids, wakes, 0.0)
    before = [id for id in overdue.ids if id not in overdue.lasts]
    return Seen((), before, wakes, 0.0, overdue.queues, overdue.lasts)
