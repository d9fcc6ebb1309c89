"""The change stream, read by one thread.

No resume token is kept: the collection is the truth and the stream only a bell. After any error it is dead, and
`FeedEnded` tells the watcher to open a new one, make the barrier and scan. A token that was kept would meet the same
oversized or lost event for ever. So the stream is opened as the aggregation that it is: the driver's own `watch`
takes it up again inside of a read, and waits there for a server for as long as that read may take.
"""

from __future__ import annotations

from typing import Any, Final

import pymongo
from pymongo.collection import Collection

from streamq.core.wake import Wake
from streamq.core.wakes import Interest, pipeline, wake_of
from streamq.errors import AccessRefused, FeedEnded
from streamq.store.faults import DRIVER_ERRORS, DriverError, reading, short, translated
from streamq.store.source import Source

AWAIT_MS: Final = 10_000
"""How long one getMore waits on the server: an idle worker then sends one every 10 s. Stopping does not wait for it:
the bell ends it, and a server that is gone does; one that hangs bounds the stop by this and `HUNG_S`."""

HUNG_S: Final = 10.0
"""How much longer than it waits on the server a getMore may take until its connection is given up. A reply that the
road had swallowed was waited for as long as the connection lived, minutes or for ever, and so was the app's end."""

MOST_EVENTS: Final = 500
"""Events in one reply. The server's own bound is 16 MB: a consumer whose stream was behind grew by 110 MB for a second,
the dicts of such a reply, and nothing else of a process runs while they are made (docs/measurements.md)."""


class MongoFeed:
    """One open stream of the tasks collection."""

    def __init__(
        self, tasks: Collection[dict[str, Any]], interest: Interest, await_s: float | None, timeout_s: float
    ) -> None:
        self._interest = interest
        await_ms = AWAIT_MS if await_s is None else max(1, round(await_s * 1000))
        self._source = Source(tasks.database.client)
        self._patience = pymongo.timeout(await_ms / 1000 + HUNG_S)  # kept: to make one costs more than to use it
        with reading("open the change stream"), pymongo.timeout(timeout_s):
            stages: list[dict[str, Any]] = [{"$changeStream": {}}, *pipeline(interest)]
            self._stream = tasks.aggregate(stages, maxAwaitTimeMS=await_ms, batchSize=MOST_EVENTS)

    def read(self) -> Wake | None:
        """See `Feed.read`. Trips: one getMore when nothing is buffered, at most `AWAIT_MS` and `HUNG_S`."""
        if self._source.is_away(self._stream.address):
            raise FeedEnded("the change stream ended: its server is away, or primary no more")
        try:
            with self._patience:
                event = self._stream.try_next()
        except DRIVER_ERRORS as error:
            raise self._said(error) from error
        if event is not None:
            return wake_of(event, self._interest)
        if not self._stream.alive:
            # A filtered stream ends without error or event when its collection goes.
            raise FeedEnded("the change stream ended (collection dropped or renamed?)")
        return None

    def close(self) -> None:
        """See `Feed.close`. A server that is away cannot be told, nor is it waited for: its cursor times out there."""
        if self._source.is_away(self._stream.address):
            return
        try:
            with self._patience:
                self._stream.close()
        except DRIVER_ERRORS:
            return

    def _said(self, error: DriverError) -> Exception:
        known = translated(error, "read the change stream", writing=False)
        return known if isinstance(known, AccessRefused) else FeedEnded(f"the change stream ended: {short(error)}")
