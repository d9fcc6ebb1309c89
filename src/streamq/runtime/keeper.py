"""The keeper: extends the leases of all claims this process holds, in one update a beat.

A claim whose lease was lost is dropped and its handler cancelled; so is one that could not be extended for a whole
lease less the margin, by the monotonic clock, however long the call to the server hangs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio
from bson import ObjectId

from streamq.bridge import Bridge
from streamq.core.claim import Claim
from streamq.errors import StoreError
from streamq.runtime import clock
from streamq.runtime.held import MARGIN, Held, Holdings
from streamq.runtime.journal import Journal
from streamq.store.contract import Store

BEATS_A_LEASE: Final = 3
"""Two beats may fail before a lease is in danger."""

PAUSE_S: Final = 0.2
"""Before a failed beat is repeated, jittered; selecting a server waits by itself."""


class Keeper:
    """Runs as two tasks: one extends, one watches that extending works."""

    def __init__(self, store: Store, bridge: Bridge, holdings: Holdings, journal: Journal) -> None:
        self._store = store
        self._bridge = bridge
        self._holdings = holdings
        self._journal = journal
        self._beats = trio.lowlevel.ParkingLot()
        self._beat_at = float("inf")  # when the next beat is due, as far as its task knows that sleeps on it
        self._doubts = trio.lowlevel.ParkingLot()
        self._doubt_at = float("inf")
        self._beating = 0  # extensions in flight
        self._beaten = trio.lowlevel.ParkingLot()
        holdings.changed = self._look_again

    def _look_again(self, held: Held) -> None:
        """Note a claim, new or with another lease. Called once for each that is run, so nobody is woken for one that is
        due later than what is slept on."""
        if self._beats and _beat_at(held) < self._beat_at:
            self._beats.unpark_all()
        if self._doubts and held.trusted_until < self._doubt_at:
            self._doubts.unpark_all()

    async def set_apart(self, held: Held) -> None:
        """Leave a claim out of the beats; return when no extension that includes it is in flight, one that its holder
        asked for neither: it would shorten the lease again. Cancellation: shield it."""
        held.apart = True
        while self._beating:
            await self._beaten.park()

    async def extend(self) -> None:
        """Extend for ever. Cancellation: safe."""
        while True:
            self._beat_at = min((_beat_at(held) for held in self._kept()), default=float("inf"))
            if self._beat_at > clock.now():
                # A claim with a shorter lease may come meanwhile: it wakes this sleep.
                with trio.move_on_at(self._beat_at):
                    await self._beats.park()
                continue
            await self._beat()

    async def _beat(self) -> None:
        sent_at = clock.now()
        sent = [(held, held.claim) for held in self._kept()]
        try:
            lost = await self.extend_now([claim for _, claim in sent])
        except StoreError as error:
            self._journal.write("store error", doing="extend leases", error=error)
            await trio.sleep(clock.jittered(PAUSE_S))
            return
        for held, claim in sent:
            if claim.id not in lost:
                held.trust(sent_at, claim)
            elif held.ending:
                held.gone = True  # its settlement may just have been applied: the settler hears what became of it
            else:
                self._holdings.lose(held, "taken over")

    async def extend_now(self, claims: Sequence[Claim]) -> set[ObjectId]:
        """Extend `claims`; return the ids of those that are not held any more. Whoever sets one of them apart waits for
        the answer."""
        self._beating += 1
        try:
            return set(await self._bridge.call(self._store.extend, claims))
        finally:
            self._beating -= 1
            self._beaten.unpark_all()

    def _kept(self) -> list[Held]:
        return [held for held in self._holdings if not held.gone and not held.apart]

    async def watch(self) -> None:
        """Lose claims that cannot be trusted any more. Cancellation: safe."""
        while True:
            self._doubt_at = self._holdings.next_doubt()
            with trio.move_on_at(self._doubt_at):
                await self._doubts.park()
            self._holdings.doubt()


def _beat_at(held: Held) -> float:
    """When to extend next: a third of the lease after it was last counted."""
    lease_s = held.claim.lease_s
    return held.trusted_until - lease_s * (1 - MARGIN) + lease_s / BEATS_A_LEASE
