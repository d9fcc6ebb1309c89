"""The keeper: extends the leases of all claims this process holds, in one update a beat.

    claimed ── beat at 1/3 of the lease ── no answer by 1/2: another beside it ── by 2/3: a third ── 5/6: not trusted

An answer may be lost though the lease was extended, and by a connection that drops packets nobody hears so until the
driver's deadline, which is longer than short leases are. Whether that beat took effect need not be found out: another
one takes the same trip and does more.

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
from streamq.runtime.held import Held, Holdings
from streamq.runtime.journal import Journal
from streamq.store.contract import Store

UNANSWERED: Final = 1 / 6
"""Share of a lease after which a beat that has no answer is not waited for: two more go out while it is trusted."""

MOST_BEATS: Final = 3
"""In flight at once for one claim."""

MOST_AT_ONCE: Final = 2 * MOST_BEATS
"""In flight at once: each takes a thread and a connection. Those whose connections stand still must not keep the beats
of what is claimed later from being sent."""

PAUSE_S: Final = 0.2
"""Before a failed beat is repeated, jittered; selecting a server waits by itself."""

TRIES: Final = 4
"""At least so many fit into what is left of the lease that ends first: short ones are asked for again sooner."""

LEAST_PAUSE_S: Final = 0.01


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
        self._out: set[object] = set()  # extensions in flight
        self._beats_out = 0
        self._beaten = trio.lowlevel.ParkingLot()
        holdings.changed = self._look_again

    def _look_again(self, held: Held) -> None:
        """Note a claim, new or with another lease. Called once for each that is run, so nobody is woken for one that is
        due later than what is slept on."""
        if self._beats and held.beat_at < self._beat_at:
            self._beats.unpark_all()
        if self._doubts and held.trusted_until < self._doubt_at:
            self._doubts.unpark_all()

    async def set_apart(self, held: Held) -> None:
        """Leave a claim out of the beats; return when no extension that includes it is in flight, one that its holder
        asked for neither: it would shorten the lease again. Cancellation: shield it."""
        held.apart = True
        before = set(self._out)
        while before & self._out:
            await self._beaten.park()

    async def extend(self) -> None:
        """Extend for ever. Cancellation: a beat in flight is waited for."""
        async with trio.open_nursery() as nursery:
            while True:
                self._beat_at = min((held.beat_at for held in self._kept()), default=float("inf"))
                if self._beat_at > clock.now():
                    # A claim with a shorter lease may come meanwhile: it wakes this sleep.
                    with trio.move_on_at(self._beat_at):
                        await self._beats.park()
                elif self._beats_out == MOST_AT_ONCE:
                    await self._beaten.park()
                else:
                    for held in self._kept():
                        held.beat_at = _beat_beside_at(held)
                    self._beats_out += 1
                    nursery.start_soon(self._beat)

    async def _beat(self) -> None:
        sent_at = clock.now()
        sent = [(held, held.claim) for held in self._kept()]  # now: what has been set apart meanwhile is left out
        for held, _ in sent:
            held.beats_out += 1
            if held.beats_out >= MOST_BEATS:
                held.beat_at = float("inf")
        try:
            lost = await self.extend_now([claim for _, claim in sent]) if sent else set()
        except StoreError as error:
            self._journal.write("store error", doing="extend leases", error=error)
            self._beat_again(sent, sent_at)
            return
        finally:
            self._beats_out -= 1
            for held, _ in sent:
                held.beats_out -= 1
                held.beat_at = min(held.beat_at, _beat_beside_at(held))
            self._beaten.unpark_all()
        for held, claim in sent:
            if claim.id not in lost:
                held.trust(sent_at, claim)
                self._look_again(held)
            elif held.ending:
                held.gone = True  # its settlement may just have been applied: the settler hears what became of it
            else:
                self._holdings.lose(held, "taken over")

    def _beat_again(self, sent: Sequence[tuple[Held, Claim]], sent_at: float) -> None:
        now, there = clock.now(), [(held, claim) for held, claim in sent if not held.settled]
        for held, claim in there:
            held.mistrust(sent_at, claim)
        left_s = min((held.trusted_until for held, _ in there), default=now) - now
        again_at = now + clock.jittered(max(LEAST_PAUSE_S, min(PAUSE_S, left_s / TRIES)))
        for held, _ in there:
            held.beat_at = again_at
            self._look_again(held)

    async def extend_now(self, claims: Sequence[Claim]) -> set[ObjectId]:
        """Extend `claims`; return the ids of those that are not held any more. Whoever sets one of them apart waits for
        the answer."""
        out = object()
        self._out.add(out)
        try:
            return set(await self._bridge.call(self._store.extend, claims))
        finally:
            self._out.discard(out)
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


def _beat_beside_at(held: Held) -> float:
    """When to extend once more if the beat that is sent now has no answer: sooner where less of the lease is left, as
    of a long one that may have become a short one."""
    now = clock.now()
    return now + min(held.claim.lease_s * UNANSWERED, max(LEAST_PAUSE_S, (held.trusted_until - now) / 2))
