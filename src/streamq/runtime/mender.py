"""The mender: sees to it that the indexes are there, whenever a stream was opened.

A collection that is dropped, or renamed, comes back with the next write and without its indexes: tasks would be found
by reading all of them, and unique keys, turns and slots would be given twice. Whoever drops it ends every stream of it,
so the look at the indexes belongs behind each opening: what is dropped after it is heard of again.

    stream opened → look → all there
                      └──→ make them ──→ made
                                └──────→ refused, or tasks collide that were stored meanwhile: say so, again later
"""

from __future__ import annotations

from typing import Final

from streamq.bridge import Bridge
from streamq.errors import AccessRefused, StoreError
from streamq.runtime import clock
from streamq.runtime.alarm import Alarm
from streamq.runtime.journal import Journal
from streamq.store.contract import Store

AGAIN_S: Final = 15.0
"""When to look again at what cannot be made now: somebody must end a task, or grant a right. Chosen freely."""


class Mender:
    """Runs as one task; `look` may be called at any time."""

    def __init__(self, store: Store, bridge: Bridge, journal: Journal) -> None:
        self._store = store
        self._bridge = bridge
        self._journal = journal
        self._alarm = Alarm(float("inf"))

    def look(self) -> None:
        """Look soon."""
        self._alarm.sooner(clock.now())

    async def run(self) -> None:
        """Serve for ever. Cancellation: safe; a look in flight is waited for. Trips: 1 a look when all are there."""
        while True:
            await self._alarm.wait()
            try:
                missing = await self._bridge.call(self._store.mend)
            except AccessRefused as error:
                self._say(str(error))
                continue
            except StoreError as error:
                self._journal.write("store error", doing="look at the indexes", error=error)
                self._alarm.failed()
                continue
            self._alarm.went_well()
            if missing:
                self._say(f"{', '.join(missing)}: tasks collide that were stored while there was no index")

    def _say(self, why: str) -> None:
        self._journal.write("indexes missing", why=why)
        self._alarm.sooner(clock.now() + clock.jittered(AGAIN_S))
