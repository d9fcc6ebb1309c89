"""The watcher: one change stream per process, and the order that loses no wake.

    open the stream → barrier (a majority write) → scan → follow

A stream starts after the last applied operation. A write with an earlier timestamp may commit later (an "oplog
hole"): it comes before the stream's start and is still invisible to a scan. The barrier waits until every earlier
write has committed or aborted, so the scan after it sees what the stream cannot tell. Opening and scanning
alone misses such a write (reproduced with a fail point). Every reopening repeats the order.

The barrier is the write of the member's own row, which registers the process as well.

While every queue gives much, the stream costs the server and this process a quarter of their work, more than looking at
the queues every few ms does: it is closed then ("resting"), what else it would tell is asked for now and then, and once
they give less it is opened again, in the same order. To close one takes a trip and to open one takes four, under a load
tens of ms: the queues are looked at from before the one until after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import trio

from streamq.bridge import NOTHING, Bridge
from streamq.core.document import TaskDocument
from streamq.core.member import Member, Roster, beat_s
from streamq.core.rendezvous import Rendezvous
from streamq.core.wake import Wake
from streamq.core.wakes import Interest
from streamq.errors import (
    AccessRefused,
    FeedEnded,
    OutcomeUnknown,
    StoreError,
    StoreUnavailable,
    StreamQError,
    UsageError,
)
from streamq.runtime import clock
from streamq.runtime.canceller import Canceller
from streamq.runtime.handover import Handover
from streamq.runtime.intake import Early, Intake
from streamq.runtime.journal import Journal
from streamq.runtime.mender import Mender
from streamq.runtime.pauses import Pauses
from streamq.runtime.recurrer import Recurrer
from streamq.runtime.scheduler import Scheduler
from streamq.runtime.tailer import Tailer
from streamq.runtime.waiter import Waiters
from streamq.runtime.wants import Wants
from streamq.store.contract import Feed, Store

PASSING: Final = (StoreUnavailable, OutcomeUnknown, FeedEnded)
"""Errors after which opening the stream again may help. Of any other, those who wait for it are told."""

BURST_S: Final = 0.0005
"""A wake that follows another one sooner than this is part of a burst: about the time that a claim by id takes."""

REST_LOOK_S: Final = 0.25
"""While the stream rests: how often is asked what it would have told (pauses, cancellations, new instants)."""

QUIET_S: Final = 5.0
"""A stream that lasted this long was healthy: the next failure begins with the shortest pause."""


class Watcher:
    """Runs as services of an app: `run`, `beat`, `safety_scan`."""

    def __init__(
        self,
        store: Store,
        bridge: Bridge,
        scheduler: Scheduler,
        recurrer: Recurrer,
        waiters: Waiters,
        canceller: Canceller,
        mender: Mender,
        journal: Journal,
        member: Member,
        *,
        holder: str,
        safety_scan_s: float | None,
        tailer: Tailer | None = None,
    ) -> None:
        self._store = store
        self._bridge = bridge
        self._scheduler = scheduler
        self._recurrer = recurrer
        self._waiters = waiters
        self._canceller = canceller
        self._mender = mender
        self._journal = journal
        self._member = member
        self._holder = holder
        self._safety_scan_s = safety_scan_s
        self._tailer = tailer
        self._intakes: list[Intake] = []
        self._open: Interest | None = None
        self._coming: Interest | None = None  # what the stream that is being opened will tell
        self._opened = trio.Condition()
        self._opening = 0  # how many wait for the stream to tell all they want
        self._refused: StoreError | None = None
        self._following: trio.CancelScope | None = None
        self._wanted = trio.lowlevel.ParkingLot()
        self._ended = False
        self._rung = False
        self._lost = False
        self._last_wake_at = -float("inf")
        self._paused: frozenset[str] = frozenset()  # of the queues that the open stream tells of
        self._controls = 0  # how often the stream has told of a pause
        self._members = 1  # this one, and others that live
        self._beat_s = beat_s(self._members)
        self._told_lease_s = 0.0  # the shortest lease that the row names
        self._rendezvous = Rendezvous()
        self._handover = Handover()
        self._tired = False  # every queue is saturated: the stream is to rest
        self._resting = False
        self._unheard: list[Intake] = []  # which are looked at instead of told

    # --- what it is for ---------------------------------------------------------------------------------------

    async def subscribe(self, intakes: Sequence[Intake]) -> None:
        """Serve `intakes`; return when no later put can be missed.

        Raises what the server refused. Cancellation: safe; call `unsubscribe` in any case.
        """
        self._intakes.extend(one for one in intakes if one not in self._intakes)
        for intake in intakes:
            intake.has_claimed = self._weigh
            intake.rendezvous = self._rendezvous
        await self._covered()
        if self._row().lease_s < self._told_lease_s:
            await self._try_to_beat()  # the stream was open already; the others must know how soon a lease may end
        for intake in intakes:
            intake.pause(intake.wants.queue in self._paused)
            intake.scan()

    def unsubscribe(self, intakes: Sequence[Intake]) -> None:
        """Serve `intakes` no more. The stream is narrowed at its next opening."""
        self._intakes = [one for one in self._intakes if one not in intakes]

    def refuse(self, error: StreamQError) -> None:
        """Tell everybody who takes tasks that there will be no more."""
        for intake in self._intakes:
            intake.refuse(error)

    async def hear_results(self) -> None:
        """Make sure that ends of tasks this process waits for are told. Cancellation: safe."""
        self._waiters.wanted = True
        try:
            await self._covered()
        except StoreError:
            self._waiters.wanted = bool(len(self._waiters))
            raise

    def swift(self, wake: Wake) -> object | None:
        """Claim at once for an idle intake, or stand by for others, in the thread that reads the stream; None: the wake
        is to be told.

        Nothing is claimed within a burst: one after the other is slower than a batch. Nor while trio stands still.
        """
        now = clock.thread_now()
        quiet = now - self._last_wake_at > BURST_S
        self._last_wake_at = now
        if wake.kind != "ready":
            return None
        if quiet and (early := self._claim_early(wake)) is not None:
            self._last_wake_at = clock.thread_now()
            return early
        return self._stand_by_early(wake)

    def _stand_by_early(self, wake: Wake) -> object | None:
        """Leave alone what others are to try first, if nobody here has to know of it now."""
        if not wake.says_no_more:
            return None
        intakes = [one for one in self._intakes if one.wants.queue == wake.queue]
        if len(intakes) != 1 or (sooner := intakes[0].stand_by_early(wake)) is None:
            return None
        return intakes[0] if sooner else NOTHING

    def _claim_early(self, wake: Wake) -> Early | None:
        if self._handover.is_stuck:
            return None
        for intake in self._intakes:
            if intake.wants.queue == wake.queue and (early := intake.claim_early(wake)) is not None:
                self._handover.sent()
                return early
        return None

    def claim_due(self, queue: str, due: Sequence[tuple[Wake, TaskDocument]]) -> Early | None:
        """Claim delayed tasks of `queue` whose time has come for an idle intake, in the thread that read them; what it
        does not obtain is to be released."""
        for intake in self._intakes:
            if intake.wants.queue == queue and (early := intake.claim_due(due)) is not None:
                return early
        return None

    @property
    def is_idle(self) -> bool:
        """Say whether any slot waits for a task. Any thread."""
        return any(intake.takers.offer.left for intake in self._intakes)

    def told(self, items: Sequence[object]) -> None:
        """Hand wakes, and what was claimed at once, to those they are for."""
        for item in items:
            if isinstance(item, Early):
                self._handover.taken()
                item.intake.take_early(item)
                for wake in item.wakes:
                    self._hear_end(wake)
            elif isinstance(item, Intake):
                item.look_after()
            elif isinstance(item, Wake):
                self._tell(item)

    @property
    def serves(self) -> bool:
        """Say whether anybody in this process takes tasks."""
        return bool(self._intakes)

    def takes_from(self, queue: str) -> bool:
        """Say whether anybody in this process takes tasks from that queue."""
        return any(intake.wants.queue == queue for intake in self._intakes)

    def put_here(self, wakes: Sequence[Wake]) -> None:
        """Hand over wakes of this process's own puts, ahead of the stream: nobody else has heard of them yet."""
        for wake in wakes:
            self._tell(wake, at_once=True)

    def _tell(self, wake: Wake, *, at_once: bool = False) -> None:
        if wake.freed_in:
            for intake in self._intakes:
                if intake.wants.queue == wake.freed_in:
                    intake.scan()
        if wake.follow_up:
            self._scheduler.hear(wake)
        if wake.kind == "ready":
            for intake in self._intakes:
                if intake.wants.queue == wake.queue:
                    intake.hint(wake, at_once=at_once)
            self._hear_end(wake)
        elif wake.kind == "settled":
            self._waiters.tell(wake.id)
        elif wake.kind in ("pause", "resume"):
            self._controls += 1
            self._pause(self._paused | {wake.queue} if wake.kind == "pause" else self._paused - {wake.queue})
        elif wake.kind == "schedule":
            self._recurrer.look()
        elif wake.kind == "cancel":
            if wake.id is not None:
                self._canceller.hear(wake.id)
        elif wake.kind != "follow_up":
            if wake.member and wake.member != self._member.row_id:
                self._rendezvous.add(wake.member, wake.serves)
            self._scheduler.hear(wake)

    def _pause(self, paused: frozenset[str]) -> None:
        self._paused = paused
        for intake in self._intakes:
            intake.pause(intake.wants.queue in paused)

    async def _read_paused(self) -> None:
        """Ask which queues are paused. What the stream tells meanwhile is newer than the answer: then ask again."""
        # Of all that the stream tells of, served just now or not: who comes to one of these finds the stream open.
        told_of = {queue for one in (self._open, self._coming) if one is not None for queue in one.queues}
        queues = sorted(told_of | {intake.wants.queue for intake in self._intakes})
        while queues:
            told = self._controls
            paused = await self._bridge.aside(self._store.paused, queues)
            if told == self._controls:
                self._pause(frozenset(paused))
                return

    def _hear_end(self, wake: Wake) -> None:
        if wake.look_in_s is not None:
            self._scheduler.hear(wake)

    # --- services ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the stream open and fitting. Cancellation: rings the bell and waits for the thread, tells who waits for
        the stream, then removes the member's row; bounded by the store's deadline."""
        pauses = Pauses()
        try:
            while True:
                if not self._is_wanted():
                    await self._wanted.park()
                    continue
                began_at = clock.now()
                try:
                    await self._follow_once()
                    await self._rest()
                    pauses.went_well()
                    continue
                except AccessRefused as error:
                    if not self._opening:
                        raise  # a right was taken away while workers ran: fail loudly, trying again cannot help
                    self._hear_again()
                    await self._refuse(error)
                except StoreError as error:
                    self._lost = True
                    self._hear_again()  # a server that is away must not be asked every few ms
                    self._journal.write("stream lost, trying again", error=error)
                    if not isinstance(error, PASSING):
                        await self._refuse(error)
                if clock.now() - began_at > QUIET_S:
                    pauses.went_well()
                # The first reopening is free (most often a single event has ended the stream), but what was refused is
                # not asked for again at once.
                await trio.sleep(pauses.next_s(first_free=self._refused is None))
        finally:
            with trio.CancelScope(shield=True):
                async with self._opened:
                    self._ended = True
                    self._opened.notify_all()
                await self._leave()

    async def beat(self) -> None:
        """Say that this member lives, every 15 s while it watches, of many more seldom. Cancellation: safe."""
        while True:
            await trio.sleep(self._beat_s)
            self._beat_s = beat_s(self._members)  # which the row says from this beat on
            if self._open is None and not self._resting:
                continue
            await self._try_to_beat()

    async def _try_to_beat(self) -> None:
        try:
            await self._beat()
        except StoreError as error:
            self._journal.write("store error", doing="beat", error=error)

    async def _beat(self) -> None:
        row = self._row()
        self._join(await self._bridge.call(self._store.beat, row))
        self._told_lease_s = row.lease_s

    async def safety_scan(self) -> None:
        """Look at every queue that was not looked at for a while, whatever the traffic: a rolled-back claim makes no
        event, and a stream can hang. A backstop, not polling: with it off all wakes still arrive."""
        if self._safety_scan_s is None:
            return
        while True:
            await trio.sleep(self._safety_scan_s)
            self._canceller.look()
            before = clock.now() - self._safety_scan_s
            stale = [intake.wants for intake in self._intakes if intake.last_scan_at <= before]
            # What waits for a slot of its key is not ready; whether one is free a claim finds out.
            behind = [wants.queue for wants in stale if wants.holds_up]
            asked = sorted({wants.queue for wants in stale if not wants.holds_up})
            try:
                await self._read_paused()
                behind += await self._bridge.aside(self._store.queues_behind, asked) if asked else []
            except StoreError as error:
                self._journal.write("store error", doing="safety scan", error=error)
                continue
            for intake in self._intakes:
                if intake.wants.queue in behind:
                    intake.scan()

    # --- one stream -------------------------------------------------------------------------------------------

    async def _follow_once(self) -> None:
        interest = self._coming = self._interest()
        feed = await self._bridge.call(self._store.feed, interest)
        with trio.CancelScope() as self._following:
            try:
                await self._cover(interest)
                fits = self._fits(self._open)  # more may have been wanted since the interest was worked out
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self._bridge.call(feed.close)
                raise
            if fits:
                await self._follow(feed, interest)
            else:
                await self._bridge.call(feed.close)
        self._open = None

    async def _cover(self, interest: Interest) -> None:
        """Barrier, then scan; from here on nothing of `interest` can be missed."""
        self._rung = True  # the row exists from now on
        if self._intakes:
            self._mender.look()  # now that a collection which is dropped ends this stream
        await self._beat()
        await self._read_paused()
        for intake in self._intakes:
            intake.scan()
        self._waiters.recheck()
        self._canceller.look()
        self._scheduler.look()
        self._recurrer.look()
        self._hear_again()
        async with self._opened:
            self._open = interest
            self._refused = None
            if self._lost:
                self._lost = False
                self._journal.write("stream open again")
            self._opened.notify_all()

    def _join(self, roster: Roster) -> None:
        self._members = len(roster.others) + 1
        self._rendezvous.join(self._member.row_id, roster.others)
        self._scheduler.join(roster)
        self._recurrer.join(roster)

    async def _follow(self, feed: Feed, interest: Interest) -> None:
        def ring() -> None:
            self._store.ring(self._member, interest.bell)

        try:
            if self._tailer is None:
                await self._bridge.follow(feed, self.swift, self.told, ring)
            else:
                await self._tailer.follow(feed, interest.queues, self.swift, self.told, ring)
        finally:
            self._open = self._coming = None

    # --- resting ------------------------------------------------------------------------------------------------

    def _is_saturated(self) -> bool:
        """Say whether the stream costs more than looking. Those who wait for results hear by it alone."""
        return bool(self._intakes) and not self._waiters.wanted and all(one.is_saturated for one in self._intakes)

    def _weigh(self) -> None:
        """After each claim: close the stream that costs more than it tells, open it when it may tell more again."""
        if self._resting:
            if not self._is_saturated() and self._following is not None:
                self._following.cancel()
        elif self._open is not None and self._following is not None and not self._tired and self._is_saturated():
            self._tired = True
            self._unheard = list(self._intakes)
            for intake in self._unheard:
                intake.rest(True)
            self._following.cancel()

    def _hear_again(self) -> None:
        self._tired = False
        unheard, self._unheard = self._unheard, []
        for intake in unheard:
            intake.rest(False)

    async def _rest(self) -> None:
        """Do without the stream while every queue is saturated. Cancellation: safe."""
        if not self._tired:
            return
        self._tired = False
        self._journal.debug("stream resting")
        self._resting = True
        try:
            with trio.CancelScope() as self._following:
                while self._is_saturated():
                    await trio.sleep(REST_LOOK_S)
                    await self._ask_instead()
        finally:
            self._resting = False

    async def _ask_instead(self) -> None:
        """Ask what the stream would have told of, besides ready tasks."""
        self._canceller.look()
        self._scheduler.look()
        self._recurrer.look()
        try:
            await self._read_paused()
        except StoreError as error:
            self._journal.write("store error", doing="ask for pauses", error=error)

    async def _covered(self) -> None:
        """Wait until an open stream tells all that is wanted."""
        self._refused = None
        self._wanted.unpark_all()
        if not self._fits(self._open) and not self._fits(self._coming) and self._following is not None:
            self._following.cancel()  # reopen, wider
        self._opening += 1
        try:
            async with self._opened:
                while not self._fits(self._open):
                    if self._ended:
                        raise UsageError("the app was left: no stream will open any more")
                    await self._opened.wait()
                    if self._refused is not None:
                        raise self._refused
        finally:
            self._opening -= 1

    def _fits(self, interest: Interest | None) -> bool:
        """Say whether a stream of that interest tells all that is wanted."""
        if interest is None:
            return False
        queues = {intake.wants.queue for intake in self._intakes}
        replies = interest.reply_to is not None or not self._waiters.wanted
        return replies and queues <= set(interest.queues)

    def _is_wanted(self) -> bool:
        return bool(self._intakes or self._waiters.wanted)

    def _interest(self) -> Interest:
        queues = tuple(sorted({intake.wants.queue for intake in self._intakes}))
        reply_to = self._member.id if self._waiters.wanted else None
        bell = clock.new_name()
        return Interest(queues=queues, timers=bool(queues), reply_to=reply_to, bell=bell, holder=self._holder)

    def _row(self) -> Member:
        queues = tuple(sorted({intake.wants.queue for intake in self._intakes}))
        lease_s = min((intake.wants.shortest_lease_s for intake in self._intakes), default=self._member.lease_s)
        serves = tuple(_served(intake.wants) for intake in self._intakes)
        slots = sum(intake.wants.slots for intake in self._intakes)
        return msgspec.structs.replace(
            self._member, queues=queues, slots=slots, lease_s=lease_s, serves=serves, beat_s=self._beat_s
        )

    async def _refuse(self, error: StoreError) -> None:
        """Tell those who wait for an opening why it did not come. For those served before it is tried again."""
        self._refused = error
        self._journal.write("store error", doing="watch", error=error)
        async with self._opened:
            self._opened.notify_all()

    async def _leave(self) -> None:
        if not self._rung:
            return
        try:
            await self._bridge.call(self._store.leave, self._member)
        except StoreError as error:
            self._journal.write("store error", doing="leave", error=error)


def _served(wants: Wants) -> dict[str, Any]:
    only = {} if wants.only is None else {"only": list(wants.only)}
    return {"queue": wants.queue} | only
