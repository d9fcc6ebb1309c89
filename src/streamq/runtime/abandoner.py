"""The abandoner: releases what an unknown claim may hold, once its write cannot take effect any more.

Without it nothing would be lost either (the lease ends by itself); with it the tasks come back sooner and their
attempts are not used up.
"""

from __future__ import annotations

import trio

from streamq.bridge import Bridge
from streamq.errors import ClaimUnknown, StoreError
from streamq.runtime import clock
from streamq.runtime.journal import Journal
from streamq.store.contract import Store

PAUSE_S = 1.0
TRIES = 30
"""With the pause and the store's deadline this outlasts every lease one would set; then the lease has ended."""


class Abandoner:
    """Runs as one task; `add` may be called at any time."""

    def __init__(self, store: Store, bridge: Bridge, journal: Journal) -> None:
        self._store = store
        self._bridge = bridge
        self._journal = journal
        self._send, self._receive = trio.open_memory_channel[ClaimUnknown](1_000)

    def add(self, unknown: ClaimUnknown) -> None:
        """Take charge of an unknown claim. Beyond a thousand at once the leases must do."""
        try:
            self._send.send_nowait(unknown)
        except trio.WouldBlock:
            self._journal.write("store error", doing="remember an unknown claim", queue=unknown.queue)

    async def run(self) -> None:
        """Release for ever. Cancellation: safe; leases then end by themselves."""
        async with trio.open_nursery() as nursery:
            async for unknown in self._receive:
                nursery.start_soon(self._abandon, unknown)

    async def _abandon(self, unknown: ClaimUnknown) -> None:
        await trio.sleep(unknown.settles_in_s)
        for _ in range(TRIES):
            try:
                released = await self._bridge.call(self._store.abandon, unknown)
            except StoreError:
                await trio.sleep(clock.jittered(PAUSE_S))
            else:
                self._journal.add("released after an unknown claim", released)
                return
