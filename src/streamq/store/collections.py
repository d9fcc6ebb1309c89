"""The tasks collection as the store uses it: one handle for writes that must last, one for those that need not."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import msgspec
import pymongo
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from streamq.core.features import SUFFIX as FEATURES
from streamq.core.notice import WakeBy
from streamq.core.roles import META
from streamq.store.features import Features
from streamq.store.setup import CODEC
from streamq.store.wake_channel import WakeChannel

Document = dict[str, Any]


class Tasks(msgspec.Struct, frozen=True):
    """Handles on the one collection.

    `durable` writes with majority and journal, which is what makes wakes fast too: an event is told when it is
    majority-committed, and a w:1 write waits up to 100 ms for the journal (DESIGN section 3). `quick` writes with
    w:1, for claims: one that is rolled back is harmless, because settling is fenced. `committed` reads what
    cannot be rolled back. All go to the primary. `meta` is the collection beside the tasks, for what is no task and no
    row of a member; it writes with majority too. `buckets` is the same with w:1, for tokens of rates, which are taken
    at each claim: of one that is rolled back some tokens are given twice. `dead` is the collection that failed tasks
    are moved to, if there is one; `wakes` the extra wake channel, if there is one; `features` knows which indexes there
    are beside those that are always there.
    """

    durable: Collection[Document]
    quick: Collection[Document]
    committed: Collection[Document]
    meta: Collection[Document]
    buckets: Collection[Document]
    timeout_s: float
    features: Features
    dead: Tasks | None = None
    wakes: WakeChannel | None = None

    def deadline(self) -> AbstractContextManager[None]:
        """Bound the calls inside by the driver's own deadline: it travels to the server as maxTimeMS."""
        return pymongo.timeout(self.timeout_s)


def tasks_of(
    database: Database[Document], name: str, timeout_s: float, dead: str | None = None, wake: WakeBy = "stream"
) -> Tasks:
    """Open the handles; `dead` names the collection for dead letters, `wake` says by what puts wake workers."""

    def handle(write: WriteConcern, read: ReadConcern, name: str = name) -> Collection[Document]:
        return database.get_collection(
            name, codec_options=CODEC, read_preference=ReadPreference.PRIMARY, write_concern=write, read_concern=read
        )

    majority = WriteConcern(w="majority", j=True)
    durable = handle(majority, ReadConcern("local"))
    in_use = handle(majority, ReadConcern("local"), name + FEATURES)
    return Tasks(
        durable=durable,
        quick=handle(WriteConcern(w=1), ReadConcern("local")),
        committed=handle(majority, ReadConcern("majority")),
        meta=handle(majority, ReadConcern("local"), name + META),
        buckets=handle(WriteConcern(w=1), ReadConcern("local"), name + META),
        timeout_s=timeout_s,
        features=Features(durable, in_use, timeout_s),
        dead=None if dead is None else tasks_of(database, dead, timeout_s),
        wakes=WakeChannel(database, name, timeout_s) if wake == "tailable" else None,
    )
