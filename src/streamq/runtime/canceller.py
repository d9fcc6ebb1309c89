"""The canceller: hears which of the tasks held here somebody wants cancelled, and sees to it that they end.

    stream ──cancel(id)──┐
    stream reopened ─────┤→ which of our claims? (one read) → cancel the handler's scope → its slot settles
    safety scan ─────────┘                                  └→ not begun yet: settle at once

The wish stays on the task for as long as the claim does, so it is level-triggered: a word of the stream that is lost is
made up for by the next look. What the stream tells is only a hint, too: a task may have been cancelled, requeued and
claimed again by this very process before the word of the first arrives; only the server knows which claim was meant.

A word may also come before the answer to the claim that it is about (both are on their way from the server at once).
So ids are remembered for a while, and a claim that comes in under one of them is looked at again.
"""

from __future__ import annotations

from typing import Final

import trio
from bson import ObjectId

from streamq.bridge import Bridge
from streamq.core.outcome import CalledOff
from streamq.core.settlement import settlement_of
from streamq.errors import StoreError
from streamq.runtime import clock
from streamq.runtime.held import Held, Holdings
from streamq.runtime.journal import Journal
from streamq.runtime.settler import NO_RETRY, Settler
from streamq.store.contract import Store

MOST_NAMED: Final = 1_000
"""Ids remembered that the stream has named. Forgetting one too early costs latency only."""

PAUSE_S: Final = 0.2
"""Before a failed look is repeated, jittered; selecting a server waits by itself."""


class Canceller:
    """Runs as one task; `hear` and `look` may be called at any time."""

    def __init__(self, store: Store, bridge: Bridge, holdings: Holdings, settler: Settler, journal: Journal) -> None:
        self._store = store
        self._bridge = bridge
        self._holdings = holdings
        self._settler = settler
        self._journal = journal
        self._wanted = False
        self._lot = trio.lowlevel.ParkingLot()
        holdings.named_again = self.look

    def hear(self, id: ObjectId) -> None:
        """The stream said that somebody wants task `id` cancelled."""
        named = self._holdings.named
        named[id] = None
        if len(named) > MOST_NAMED:
            del named[next(iter(named))]
        if self._holdings.has(id):
            self.look()

    def look(self) -> None:
        """Look soon at all that is held."""
        self._wanted = True
        self._lot.unpark_all()

    async def run(self) -> None:
        """Serve for ever. Cancellation: safe. Trips: 1 a look, when anything is held."""
        while True:
            if not self._wanted:
                await self._lot.park()
                continue
            self._wanted = False  # before the look: a word that comes during it makes another one
            held = {one.claim.id: one for one in self._holdings if not one.ending and not one.cancelled}
            if not held:
                continue
            try:
                asked = await self._bridge.aside(self._store.asked, [one.claim for one in held.values()])
            except StoreError as error:
                self._journal.write("store error", doing="look for cancellations", error=error)
                await trio.sleep(clock.jittered(PAUSE_S))
                self._wanted = True
                continue
            for id in asked:
                self._holdings.named.pop(id, None)
                self._cancel(held[id])

    def _cancel(self, held: Held) -> None:
        if held.ending or held.settled:
            return  # what it came to is on its way; if that would put it back, the server ends it instead
        held.cancelled = True
        if held.scope is not None:
            held.scope.cancel()
        else:
            self._settler.push(held, settlement_of(CalledOff(), held.claim, NO_RETRY, 0.0))
