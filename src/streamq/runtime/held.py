"""What this process holds: its claims, until each is settled or lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from operator import attrgetter
from typing import Final

import trio
from bson import ObjectId

from streamq.core.claim import Claim
from streamq.core.report import Report
from streamq.runtime import clock
from streamq.runtime.journal import Journal

ReportBy = Callable[["Held", Report], Awaitable[None]]

MARGIN: float = 1 / 6
"""Share of a lease by which this process stops trusting it early: what a slow reply or a pause may cost."""

BEATS_A_LEASE: Final = 3
"""Two beats may fail before a lease is in danger."""


_beat_at, _trusted_until = attrgetter("beat_at"), attrgetter("trusted_until")


class Held:
    """One claim in this process.

    `trusted_until` is by the monotonic clock, counted from before the claim (or its extension) was sent: past it, the
    server may have given the task to somebody else. `beat_at` is when it is to be extended next. `lost` is set once, by
    whoever finds out.

    Extensions overlap: the next is sent while one has no answer, and its holder may ask for another lease meanwhile. In
    which order the server wrote them is not known. Of the same lease the later write ends later, so what was sent last
    counts, whichever is heard first. Of different leases the sooner end counts, unless one was sent after the other was
    heard. So does a shorter one whose answer was lost, and which may have been written.
    """

    __slots__ = (
        "_counted_s",
        "_heard_at",
        "_mixed_at",
        "apart",
        "beat_at",
        "beats_out",
        "cancelled",
        "claim",
        "ending",
        "gone",
        "lost",
        "owner",
        "report",
        "report_by",
        "reported",
        "reported_at",
        "scope",
        "settled",
        "since",
        "started",
        "trusted_until",
    )

    def __init__(self, claim: Claim, sent_at: float, owner: object) -> None:
        self.claim = claim
        self.owner = owner  # who claimed it, and gives it back when stopped
        self.since = sent_at
        self.lost = False
        self.cancelled = False  # somebody wants it cancelled, and it has been told
        self.ending = False  # its settlement is on the way
        self.apart = False  # in a transaction of its own: no beat may touch it
        self.gone = False  # a beat did not find it; its settlement, which is on the way, will tell why
        self.started = False
        self.settled = False  # by its settlement, or by having been lost
        self.scope: trio.CancelScope | None = None
        self.report: Report | None = None  # what was last said of how far it is
        self.reported: Report | None = None  # what of that is written
        self.reported_at = -float("inf")
        self.report_by: ReportBy | None = None
        self.trusted_until = sent_at + claim.lease_s * (1 - MARGIN)
        self.beat_at = sent_at + claim.lease_s / BEATS_A_LEASE
        self.beats_out = 0  # extensions of it that have no answer yet
        self._counted_s = claim.lease_s  # the lease that is counted on
        self._heard_at = sent_at  # when what is known of it was heard, or may have been
        self._mixed_at = sent_at  # what was sent before may have been written before one for another lease

    def came_late(self, now: float) -> bool:
        """Say whether its answer took so long that too little of the lease is left to begin with: by the time its
        extension is answered it may have ended."""
        return self.trusted_until - now < self.claim.lease_s * MARGIN

    def trust_for(self, sent_at: float, lease_s: float) -> None:
        """Count on a lease other than the claim's own, once."""
        self._counted_s = lease_s
        self.trust_until(sent_at + lease_s * (1 - MARGIN))

    def trust_until(self, until: float) -> None:
        """Trust it until then."""
        lease_s = self.claim.lease_s
        self._heard_at = clock.now()
        self.trusted_until = until
        self.beat_at = until - lease_s * (1 - MARGIN) + lease_s / BEATS_A_LEASE

    @property
    def is_over(self) -> bool:
        """Say whether it must not be begun: it was lost, is about to end, or is trusted no more and nobody has come to
        say so yet, as after a handler that blocked or a freeze of the process."""
        return self.lost or self.ending or self.trusted_until <= clock.now()

    @property
    def left_s(self) -> float | None:
        """What is left of the task's total time, counted from before its claim was sent; None: it has no limit."""
        return None if self.claim.total_s is None else self.since + self.claim.total_s - clock.now()

    def trust(self, sent_at: float, sent: Claim) -> None:
        """Count the lease anew from `sent_at`, as `sent` asked for it. What is no longer trusted stays so: who was to
        begin it may have passed it over, and nobody would."""
        now = clock.now()
        if self.trusted_until <= now:
            return
        until, alone = sent_at + sent.lease_s * (1 - MARGIN), sent_at >= self._heard_at
        self._heard_at = now
        if sent.lease_s == self._counted_s:
            if until >= self.trusted_until and sent_at >= self._mixed_at:
                self.trust_until(until)
            return
        self._counted_s, self._mixed_at = sent.lease_s, now
        self.trust_until(until if alone else min(until, self.trusted_until))

    def mistrust(self, sent_at: float, sent: Claim) -> None:
        """Note that nobody knows whether an extension took effect, as `sent` asked for it."""
        until = sent_at + sent.lease_s * (1 - MARGIN)
        self._heard_at = now = clock.now()
        if sent.lease_s < self._counted_s or (sent.lease_s > self._counted_s and until < self.trusted_until):
            self._counted_s, self._mixed_at = sent.lease_s, now
            self.trust_until(min(until, self.trusted_until))


class Holdings:
    """The claims of one process, by task id."""

    def __init__(self, journal: Journal) -> None:
        self._held: dict[ObjectId, Held] = {}
        self._journal = journal
        self._dropped = trio.lowlevel.ParkingLot()
        self.changed: Callable[[Held], None] = lambda held: None  # told of new claims, and of those with another lease
        self.report_by: ReportBy | None = None
        self.named: dict[ObjectId, None] = {}  # tasks that the stream has said somebody wants cancelled
        self.named_again: Callable[[], None] = lambda: None  # called when one of them is claimed

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def add(self, claimed: Sequence[Held]) -> None:
        """Take in what one call has claimed. A claim of the same task that is still here was lost without our hearing
        of it, unless it is about to hear that its settlement was written; or the new one came late, is given back, and
        is the older."""
        for held in claimed:
            id = held.claim.id
            before = self._held.setdefault(id, held)
            if before is not held:
                if held.ending:
                    continue
                if not before.ending:
                    self.lose(before, "claimed again by this process")
                self._held[id] = held
            held.report_by = self.report_by
            if self.named and id in self.named:
                self.named_again()
        if claimed:  # whoever sleeps until a claim is to be extended, or doubted, is told of the first of them
            self.changed(min(claimed, key=_beat_at))
            self.changed(min(claimed, key=_trusted_until))

    def drop(self, settled: Sequence[Held]) -> None:
        """Let go of claims that have been settled."""
        for held in settled:
            there = self._held.pop(held.claim.id, held)
            if there is not held:
                self._held[held.claim.id] = there  # claimed again meanwhile
            held.settled = True
        if self._dropped:
            self._dropped.unpark_all()

    def lose(self, held: Held, why: str) -> None:
        """Note that a claim is no longer ours: its handler is cancelled, nothing more is written for it."""
        if held.lost or held.settled:
            return
        self._journal.write("lease lost", task=held.claim.id, name=held.claim.task, attempt=held.claim.attempt, why=why)
        self._lose(held)

    def _lose(self, held: Held) -> None:
        held.lost = True
        self.drop((held,))
        if held.scope is not None:
            held.scope.cancel()

    def has(self, id: ObjectId) -> bool:
        """Say whether task `id` is held."""
        return id in self._held

    def keeps(self, id: ObjectId) -> bool:
        """Say whether task `id` is held and its end is not on its way: once it is, the id may be that of a new task."""
        held = self._held.get(id)
        return held is not None and not held.ending

    def of(self, owner: object) -> list[Held]:
        """Return what `owner` holds."""
        return [held for held in self._held.values() if held.owner is owner]

    async def wait_empty(self, owner: object) -> None:
        """Wait until `owner` holds nothing. Cancellation: safe."""
        while self.of(owner):
            await self._dropped.park()

    async def wait_settled(self, some: Sequence[Held]) -> None:
        """Wait until all of `some` are settled or lost. Cancellation: safe."""
        while not all(held.settled for held in some):
            await self._dropped.park()

    def next_doubt(self) -> float:
        """Return when the first claim stops being trusted (infinity when nothing is held)."""
        return min((held.trusted_until for held in self._held.values()), default=float("inf"))

    def doubt(self) -> None:
        """Lose every claim that can no longer be trusted."""
        now = clock.now()
        doubted = [held for held in self if held.trusted_until <= now]
        if doubted:
            self._journal.write("leases no longer trusted", tasks=len(doubted), first=doubted[0].claim.id)
        for held in doubted:
            self._lose(held)
