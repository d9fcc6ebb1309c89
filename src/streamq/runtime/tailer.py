"""The tailer: follows the wake channel beside the change stream, while that is open.

Nothing is owed to it. It is opened after the stream, needs no barrier and no scan, and while it is away the stream
alone wakes: whatever happens to it costs latency only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from streamq.bridge import Bridge, Deliver, Swift
from streamq.core.wake import Wake
from streamq.errors import AccessRefused, StoreError
from streamq.runtime import clock
from streamq.runtime.echoes import Echoes, FirstTold
from streamq.runtime.journal import Journal
from streamq.runtime.pauses import Pauses
from streamq.runtime.sole import sole_error
from streamq.store.contract import Feed, Store

QUIET_S: Final = 5.0
"""What lasted this long was healthy: the next failure begins with the shortest pause."""


class Tailer:
    """Of one app on a store that has a wake channel."""

    def __init__(self, store: Store, bridge: Bridge, journal: Journal) -> None:
        self._store = store
        self._bridge = bridge
        self._journal = journal
        self._echoes = Echoes()
        self.is_open = False

    async def follow(
        self, stream: Feed, queues: Sequence[str], swift: Swift, told: Deliver, ring: Callable[[], None]
    ) -> None:
        """Follow the stream that was opened just now, and the wake channel beside it, as `Bridge.follow`.

        Ends with the stream, and as it does. Cancellation: rings both bells and waits for both threads.
        """
        self._echoes.forget()
        with sole_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tail, queues, swift, told)
                await self._bridge.follow(FirstTold(stream, self._echoes, "stream"), swift, told, ring)
                nursery.cancel_scope.cancel()

    def not_told(self, wakes: Sequence[Wake]) -> list[Wake]:
        """Leave out of the wakes of this process's own puts those that were told already."""
        return [wake for wake in wakes if wake.id is None or not self._echoes.is_echo(wake.id, "own")]

    async def _tail(self, queues: Sequence[str], swift: Swift, told: Deliver) -> None:
        """Follow the wake channel until cancelled, or until it is refused: then the stream does alone."""
        pauses = Pauses()
        while queues:
            began_at = clock.now()
            try:
                await self._tail_once(queues, swift, told)
            except AccessRefused as error:
                self._journal.write("store error", doing="follow the wake channel", error=error)
                return
            except StoreError as error:
                self._journal.write("wake channel lost, trying again", error=error)
            if clock.now() - began_at > QUIET_S:
                pauses.went_well()
            # The first reopening is free: it may have been dropped, or turned over.
            await trio.sleep(pauses.next_s(first_free=True))

    async def _tail_once(self, queues: Sequence[str], swift: Swift, told: Deliver) -> None:
        bell = clock.new_name()
        feed = await self._bridge.call(self._store.tail, queues, bell)
        self._echoes.forget()
        self._journal.write("wake channel open")
        self.is_open = True
        try:
            tail = FirstTold(feed, self._echoes, "tail")
            await self._bridge.follow(tail, swift, told, lambda: self._store.ring_tail(bell))
        finally:
            self.is_open = False
