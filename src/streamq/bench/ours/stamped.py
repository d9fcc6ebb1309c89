"""A store that notes when its calls were answered: streamq's own, with a clock read beside a call to the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from bson import ObjectId

from streamq import StreamQ
from streamq.bench.place import Place
from streamq.bench.worked import RunRow, Worked
from streamq.bridge import ThreadBridge
from streamq.core.claim import Ask
from streamq.core.document import TaskDocument
from streamq.core.settlement import Settlement, Verdict
from streamq.core.wake import Wake
from streamq.core.wakes import Interest
from streamq.store.contract import Claimed, Feed, Released, Taking
from streamq.store.feed import MongoFeed
from streamq.store.mongo import MongoStore
from streamq.store.wake_channel import TailFeed


class StampedStore(MongoStore):
    """`worked` is what it noted; with `each` it notes the instants of every single task besides."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.worked = Worked()
        self.each = False
        self.first_claimed = threading.Event()
        self.ticks_wall: list[tuple[int, int]] = []
        self._heard: dict[ObjectId, int] = {}
        self._claimed: list[tuple[int, ObjectId, int]] = []

    def feed(self, interest: Interest, await_s: float | None = None) -> MongoFeed:
        """Open a stream and count it."""
        self.worked.streams += 1
        feed = super().feed(interest, await_s)
        return StampedFeed(feed, self._heard) if self.each else feed  # type: ignore[return-value]

    def tail(self, queues: Sequence[str], bell: str, await_s: float | None = None) -> TailFeed:
        """Open the wake channel."""
        feed = super().tail(queues, bell, await_s)
        return StampedFeed(feed, self._heard) if self.each else feed  # type: ignore[return-value]

    def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
        """Claim, and note when the answer was there."""
        return self._noted(lambda: super(StampedStore, self).claim(ask, taking))

    def _noted(self, claim: Callable[[], Claimed]) -> Claimed:
        began_at = time.monotonic_ns()
        claimed = claim()
        ended_at = time.monotonic_ns()
        self.worked.note_claim(began_at, ended_at, len(claimed.claims))
        if self.each:
            self._claimed += [(one.payload["number"], one.id, ended_at) for one in claimed.claims]
        return claimed

    def settle(self, settlements: Sequence[Settlement]) -> list[Verdict]:
        """Settle, and note when that was acknowledged."""
        verdicts = super().settle(settlements)
        self.worked.note_settled(time.monotonic_ns(), len(settlements))
        return verdicts

    def claim_due(self, ask: Ask, found: Sequence[TaskDocument]) -> Claimed:
        """As `claim`; what it obtains needs no release."""
        claimed = self._noted(lambda: super(StampedStore, self).claim_due(ask, found))
        if claimed.claims:
            self.worked.released.append((time.time_ns(), len(claimed.claims)))
        return claimed

    def release_due(self, ids: Sequence[Any], queues: Sequence[str] = ()) -> Released:
        """Release what is due, and note how much was by when (by the wall clock)."""
        released = super().release_due(ids, queues)
        if released.moved:
            self.worked.released.append((time.time_ns(), released.moved))
        return released

    def rows(self, handled: Sequence[tuple[int, int]]) -> list[RunRow]:
        """Join what was noted with the handlers' own notes: numbers and instants."""
        claimed = {number: (id, at) for number, id, at in self._claimed}
        found = []
        for number, handled_at in handled:
            id, claimed_at = claimed.get(number, (None, 0))
            found.append((number, self._heard.get(id, 0) if id is not None else 0, claimed_at, handled_at))
        return found


class StampedFeed:
    """A feed that notes when each task was told of first."""

    def __init__(self, feed: Feed, heard: dict[ObjectId, int]) -> None:
        self._feed = feed
        self._heard = heard

    def read(self) -> Wake | None:
        """See `Feed.read`."""
        wake = self._feed.read()
        if wake is not None and wake.kind == "ready" and wake.id is not None:
            self._heard.setdefault(wake.id, time.monotonic_ns())
        return wake

    def close(self) -> None:
        """See `Feed.close`."""
        self._feed.close()


def stamped(place: Place, *, each: bool = False, **options: Any) -> tuple[StreamQ, StampedStore]:
    """Make an app on a stamped store; close the store in the end."""
    store = StampedStore.connect(place.uri, place.database, wake=place.wake)
    assert isinstance(store, StampedStore)
    store.each = each
    return StreamQ.on(store, ThreadBridge(), **options), store
