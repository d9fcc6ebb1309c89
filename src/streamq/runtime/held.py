"""What this process holds: its claims, until each is settled or lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

import trio
from bson import ObjectId

from streamq.core.claim import Claim
from streamq.core.report import Report
from streamq.runtime import clock
from streamq.runtime.journal import Journal

ReportBy = Callable[["Held", Report], Awaitable[None]]

MARGIN: float = 1 / 6
"""Share of a lease by which this process stops trusting it early: what a slow reply or a pause may cost."""


class Held:
    """One claim in this process.

    `trusted_until` is by the monotonic clock, counted from before the claim (or its extension) was sent: past it, the
    server may have given the task to somebody else. `lost` is set once, by whoever finds out.
    """

    __slots__ = (
        "apart",
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

    def trust_for(self, sent_at: float, lease_s: float) -> None:
        """Count on a lease other than the claim's own, once."""
        self.trusted_until = sent_at + lease_s * (1 - MARGIN)

    @property
    def left_s(self) -> float | None:
        """What is left of the task's total time, counted from before its claim was sent; None: it has no limit."""
        return None if self.claim.total_s is None else self.since + self.claim.total_s - clock.now()

    def trust(self, sent_at: float, sent: Claim) -> None:
        """Count the lease anew from `sent_at`, as `sent` asked for it."""
        until = sent_at + sent.lease_s * (1 - MARGIN)
        # Its holder asked for another lease meanwhile. Which of the two writes came last is not known: the sooner
        # end counts, and by it the next beat is due at once.
        self.trusted_until = until if sent is self.claim else min(until, self.trusted_until)


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

    def add(self, held: Held) -> None:
        """Take a new claim in. A claim of the same task that is still here was lost without our hearing of it, unless
        it is about to hear that its settlement was written."""
        before = self._held.setdefault(held.claim.id, held)
        if before is not held:
            if not before.ending:
                self.lose(before, "claimed again by this process")
            self._held[held.claim.id] = held
        held.report_by = self.report_by
        self.changed(held)
        if self.named and held.claim.id in self.named:
            self.named_again()

    def drop(self, held: Held) -> None:
        """Let go of a claim that has been settled."""
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
        self.drop(held)
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
