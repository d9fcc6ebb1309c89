"""Waiting for the ends of tasks: woken by the stream, never polling."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import datetime

import trio
from bson import ObjectId

from streamq.bridge import Bridge
from streamq.core.document import TaskDocument
from streamq.core.transitions import is_terminal
from streamq.errors import TaskGone, UsageError
from streamq.runtime import clock
from streamq.store.contract import Store

RECHECK_S = 30.0
"""A waiter looks again after this long without a word, so that a stream that hangs costs latency only."""


LOOKS_AT_ONCE = 2


class Waiters:
    """Who waits for which task. `wanted` is raised by the first waiter and stays: the stream is widened once."""

    def __init__(self, store: Store, bridge: Bridge, member_id: str) -> None:
        self.wanted = False
        self._store = store
        self._bridge = bridge
        self._member_id = member_id
        self._left = False
        self._looks = trio.CapacityLimiter(LOOKS_AT_ONCE)
        self._waiting: dict[ObjectId, set[trio.Event]] = defaultdict(set)

    def tell(self, id: ObjectId | None) -> None:
        """The stream said that task `id` has ended."""
        if id is not None:
            for event in self._waiting.get(id, ()):
                event.set()

    def recheck(self) -> None:
        """The stream was reopened: whoever waits looks again."""
        for events in self._waiting.values():
            for event in events:
                event.set()

    def close(self) -> None:
        """Tell who waits that nothing will be heard any more."""
        self._left = True
        self.recheck()

    def __len__(self) -> int:
        return len(self._waiting)

    async def _look(self, id: ObjectId) -> tuple[TaskDocument | None, float]:
        """Read a task and how long it is there at most, in seconds."""
        # A few at a time: thousands may wait, and leases, claims and settlements go through the same threads.
        async with self._looks:
            document = await self._bridge.call(self._store.wait_for, id, self._member_id)
        until = None if document is None else document.get("lifetime_until")
        if not isinstance(until, datetime):
            return document, math.inf
        left_s = (until - await self._bridge.call(self._store.now)).total_seconds()
        return (document, left_s) if left_s > 0 else (None, 0.0)  # as good as removed

    async def end_of(self, id: ObjectId) -> TaskDocument:
        """Wait for the end of task `id` and return its document. The stream must be open.

        Raises `TaskGone` when it is not stored (any more). Trips: 1 at once, 1 at its end. Cancellation: safe.
        """
        while True:
            event = trio.Event()
            self._waiting[id].add(event)  # before the look: an end in between is told to it
            try:
                document, left_s = await self._look(id)
                if document is None:
                    raise TaskGone(f"task {id} is not stored (any more)")
                if is_terminal(document["status"]):
                    return document
                if document.get("keep_s") == 0:
                    raise UsageError(f"task {id} is deleted at its success (keep_s=0): there is no end to wait for")
                if not self._left:
                    with trio.move_on_after(min(clock.jittered(RECHECK_S), left_s)):  # removals are not told
                        await event.wait()
                if self._left:
                    raise UsageError(f"the app was left: the end of task {id} will not be told")
            finally:
                self._waiting[id].discard(event)
                if not self._waiting[id]:
                    del self._waiting[id]
