"""The extra wake channel: a small capped collection beside the tasks, written by puts and read by tailable cursors.

Such a cursor tells of what the primary has, a change stream of what the majority has: it is sooner by the way to the
majority and back. Nothing depends on it. It may be dropped, turn over between two reads, or not be there: then the
stream alone wakes.

Its writes name the collection by its UUID. Without, an insert after a drop would make an ordinary collection of that
name, which grows for ever and cannot be followed.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pymongo
from bson import CodecOptions, ObjectId
from bson.timestamp import Timestamp
from pymongo import CursorType
from pymongo.database import Database
from pymongo.errors import OperationFailure
from pymongo.read_preferences import ReadPreference

from streamq.core.notice import SEED, SIZE_BYTES, SUFFIX, bell_of, notice_of, wakes_of, wanted
from streamq.core.wake import Wake
from streamq.errors import AccessRefused, FeedEnded, StoreError
from streamq.store.faults import DRIVER_ERRORS, DriverError, lacks_right, reading, short, translated
from streamq.store.feed import AWAIT_MS, HUNG_S
from streamq.store.setup import CODEC
from streamq.store.source import Source

Document = dict[str, Any]

NAMESPACE_EXISTS: Final = 48

REPLIES: Final[CodecOptions[Mapping[str, Any]]] = CodecOptions(tz_aware=True)

NOT_TAKEN: Final[Mapping[str, Any]] = {"writeErrors": [{"errmsg": "there is no wake channel"}]}

LOOK_S: Final = 1.0
"""How often a producer looks whether the collection is there again. Chosen freely: its puts wake by the stream
meanwhile."""


class WakeChannel:
    """Of one store. Any thread."""

    def __init__(self, database: Database[Document], tasks: str, timeout_s: float) -> None:
        self._database = database
        self._name = tasks + SUFFIX
        self._collection = database.get_collection(
            self._name, codec_options=CODEC, read_preference=ReadPreference.PRIMARY
        )
        self._timeout_s = timeout_s
        self._uuid: Any = None
        self._look_at = -float("inf")

    # --- making it ----------------------------------------------------------------------------------------------

    def prepare(self) -> Timestamp:
        """Make it if it is not there; return the instant of its newest notice. Trips: 2; 4 when it is not there.

        Raises `StoreError` when something else has its name.
        """
        with reading(f"make {self._name}"), pymongo.timeout(self._timeout_s):
            if not self._find():
                self._create()
                self._find()
            try:
                newest = self._newest()
            except OperationFailure as error:
                if not lacks_right(error):
                    raise
                return Timestamp(0, 0)  # a role that only writes it; who reads it sees to its first document
            if newest is None:
                self._write(SEED, {"w": 1})
            return newest or Timestamp(0, 0)

    def _find(self) -> bool:
        """Look for it; say whether it is there."""
        found: Mapping[str, Any] | None = next(iter(self._database.list_collections(filter={"name": self._name})), None)
        is_capped = found is not None and bool(found.get("options", {}).get("capped"))
        # At once: puts of other threads may be telling it something.
        self._uuid = found["info"]["uuid"] if found is not None and is_capped else None
        if found is not None and not is_capped:
            raise StoreError(
                f"{self._database.name}.{self._name} is no capped collection: drop or rename it, the next start makes "
                'what wake="tailable" needs'
            )
        return is_capped

    def _create(self) -> None:
        try:
            self._database.command("create", self._name, capped=True, size=SIZE_BYTES)
        except OperationFailure as error:
            if lacks_right(error):
                raise AccessRefused(
                    f"there is no {self._name}, and this user may not make it: run `streamq init --wake-channel` by "
                    "one who may (the role of `streamq init --wake-channel --print-role operator`)"
                ) from error
            if error.code != NAMESPACE_EXISTS:  # somebody was quicker
                raise

    def _newest(self) -> Timestamp | None:
        newest = self._collection.find_one({}, {"seq": 1}, sort=[("$natural", -1)])
        if newest is None:
            return None
        seq = newest.get("seq")
        return seq if isinstance(seq, Timestamp) else Timestamp(0, 0)

    # --- writing it ---------------------------------------------------------------------------------------------

    def is_open(self) -> bool:
        """Say whether it can be told. Trips: 0; 1 now and then while it cannot."""
        if self._uuid is None and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            with contextlib.suppress(*DRIVER_ERRORS, StoreError):
                self._find()
        return self._uuid is not None

    def tell(self, documents: Sequence[Mapping[str, Any]], concern: Mapping[str, Any]) -> ObjectId | None:
        """Tell of new tasks; return which election the primary that took the notice was chosen in. None: it was not
        taken, or it is not known with what `concern`. Raises the driver's errors. Trips: 1."""
        notice = notice_of(documents)
        return None if notice is None else elected(self._write(notice, concern))

    def ring(self, bell: str) -> None:
        """End the reading of the feed of that name. If the channel was dropped while that reads, its await time ends
        it. Trips: 1."""
        with reading("end the wake channel"), pymongo.timeout(self._timeout_s):
            self._write(bell_of(bell), {"w": 1})

    def _write(self, document: Mapping[str, Any], concern: Mapping[str, Any]) -> Mapping[str, Any]:
        uuid = self._uuid
        if uuid is None:
            return NOT_TAKEN  # without a UUID the server would make what is not there
        command = {"insert": self._name, "documents": [dict(document)], "collectionUUID": uuid}
        reply = written(self._database, command, concern)
        if reply.get("writeErrors") and self._uuid == uuid:
            self._uuid = None  # dropped, most often: it is looked for again
        return reply

    # --- reading it ---------------------------------------------------------------------------------------------

    def feed(self, queues: Sequence[str], bell: str, await_s: float | None = None) -> TailFeed:
        """Follow it from now on. Trips: 3."""
        after = self.prepare()
        await_ms = AWAIT_MS if await_s is None else max(1, round(await_s * 1000))
        cursor = self._collection.find(wanted(queues, bell, after), cursor_type=CursorType.TAILABLE_AWAIT)
        source = Source(self._database.client)
        return TailFeed(cursor.max_await_time_ms(await_ms), frozenset(queues), bell, source, await_ms / 1000 + HUNG_S)


def written(database: Database[Document], command: Mapping[str, Any], concern: Mapping[str, Any]) -> Mapping[str, Any]:
    """Send a write and return the whole reply: the driver's own methods keep `electionId` to themselves. It is not
    retried. Raises the driver's errors, but not for a write or a concern that failed: the reply tells."""
    reply: Mapping[str, Any] = database.command({**command, "writeConcern": dict(concern)}, codec_options=REPLIES)
    return reply


def elected(reply: Mapping[str, Any]) -> ObjectId | None:
    """Read from a write's reply in which election its primary was chosen; None when the write failed, or its concern
    was not met, or the server does not say (a router does not)."""
    if reply.get("writeErrors") or reply.get("writeConcernError"):
        return None
    election = reply.get("electionId")
    return election if isinstance(election, ObjectId) else None


class TailFeed:
    """One tailable cursor. It is not taken up again after an error: what it missed the stream tells."""

    def __init__(self, cursor: Any, queues: frozenset[str], bell: str, source: Source, patience_s: float) -> None:
        """`patience_s`: how long a read may take until its connection is given up, as a change stream's."""
        self._cursor = cursor
        self._patience = pymongo.timeout(patience_s)
        self._source = source
        self._queues = queues
        self._bell = bell
        self._wakes: deque[Wake] = deque()

    def read(self) -> Wake | None:
        """See `Feed.read`. Trips: one getMore when nothing is buffered, at most `AWAIT_MS` and `HUNG_S`."""
        if self._wakes:
            return self._wakes.popleft()
        if self._source.is_away(self._cursor.address):
            raise FeedEnded("the wake channel ended: its server is away, or primary no more")
        try:
            with self._patience:
                notice = self._cursor.next()
        except StopIteration:
            if not self._cursor.alive:
                raise FeedEnded("the wake channel ended (dropped, or turned over between two reads)") from None
            return None
        except DRIVER_ERRORS as error:
            raise _said(error) from error
        if notice.get("bell") == self._bell:
            return Wake("bell")
        self._wakes.extend(wakes_of(notice, self._queues))
        return self._wakes.popleft() if self._wakes else None

    def close(self) -> None:
        """See `Feed.close`."""
        if self._source.is_away(self._cursor.address):
            return
        try:
            with self._patience:
                self._cursor.close()
        except DRIVER_ERRORS:
            return


def _said(error: DriverError) -> Exception:
    known = translated(error, "read the wake channel", writing=False)
    return known if isinstance(known, AccessRefused) else FeedEnded(f"the wake channel ended: {short(error)}")
