"""Putting tasks with unique keys: what becomes of a put that meets a task with its key, its twin.

The unique index decides; nothing is asked before. A put in no transaction is sent like any other, in one insert with
whatever else goes. What the index turns away is looked at afterwards, all of one insert together:

    insert ──→ turned away ──→ on_conflict="replace": take over the twin, if it has not started
                  ↑                │
                  │                └→ read who has the key ──→ the put's own first copy (its reply was lost): stored
                  │                                       ├──→ a twin: it is the answer
                  └──────── it has ended since ←──────────┘

In a transaction it goes the other way round: see `transacted`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from streamq.core import queries
from streamq.core.moves import replace
from streamq.core.new_task import NewTask, PutReply
from streamq.store.collections import Document, Tasks
from streamq.store.faults import ACCESS

MOST_ROUNDS: Final = 10
"""How often one put is sent again because its twin had ended each time. Each takes a twin that came and went within
a round trip."""

LOCK: Final = "unique_lock"

Lock = tuple[str, bytes]
"""A queue and a key in it."""


def lock_of(document: Document) -> Lock:
    """Name what a document with a unique key holds."""
    return document["queue"], document[LOCK]


def meet(tasks: Tasks, new: Sequence[NewTask], documents: Sequence[Document]) -> list[PutReply | None]:
    """Answer for puts that the index turned away; None for one whose twin has ended meanwhile: insert it again.

    Trips: 1 for all, and 1 for each that replaces.
    """
    replies: list[PutReply | None] = [None] * len(new)
    try:
        for place, (one, document) in enumerate(zip(new, documents, strict=True)):
            if one.options.on_conflict == "replace":
                id = take_over(tasks, replace.guard(document), document)  # type: ignore[arg-type]
                replies[place] = None if id is None else PutReply(id, "replaced")
        rest = [place for place, reply in enumerate(replies) if reply is None]
        own, held = _who_has(tasks, [documents[place] for place in rest])
    except OperationFailure as error:
        if error.code not in ACCESS:
            raise
        # A role that may only insert: that there is a twin is all that it may know.
        return [reply or PutReply(one.id, "hidden") for reply, one in zip(replies, new, strict=True)]
    for place in rest:
        document = documents[place]
        if document["_id"] in own:
            replies[place] = PutReply(document["_id"], "existing")
        elif lock_of(document) in held:
            replies[place] = answer(new[place], held[lock_of(document)])
    return replies


def answer(new: NewTask, twin: ObjectId) -> PutReply:
    """Say what the task `twin` means to a put with its key that does not take its place."""
    return PutReply(twin, "refused" if new.options.on_conflict == "raise" else "existing")


def take_over(tasks: Tasks, guard: dict[str, Any], document: Document, session: Any = None) -> ObjectId | None:
    """Replace the twin that `guard` matches; None when there is none, or it has started."""
    taken = tasks.durable.find_one_and_update(
        guard,
        replace.update(document),  # type: ignore[arg-type]
        projection={"_id": 1},
        return_document=ReturnDocument.AFTER,
        session=session,
    )
    return None if taken is None else taken["_id"]


def holders(handle: Collection[Document], documents: Iterable[Document], session: Any = None) -> dict[Lock, ObjectId]:
    """Read which tasks have the keys of `documents`. Trips: 1 a queue."""
    locks: dict[str, list[bytes]] = defaultdict(list)
    for document in documents:
        locks[document["queue"]].append(document[LOCK])
    wanted = [queries.twins(queue, of_queue) for queue, of_queue in locks.items()]
    return {
        lock_of(found): found["_id"]
        for one in wanted
        for found in handle.find(one, {"queue": 1, LOCK: 1}, session=session)
    }


def _who_has(tasks: Tasks, documents: Sequence[Document]) -> tuple[set[ObjectId], dict[Lock, ObjectId]]:
    """Read which of `documents` are stored themselves, and who else has their keys.

    What the majority has: the insert that was turned away has waited for it, so what turned it away is there.
    """
    if not documents:
        return set(), {}
    found = tasks.committed.find({"_id": {"$in": [one["_id"] for one in documents]}}, {"_id": 1})
    own = {one["_id"] for one in found}
    return own, holders(tasks.committed, documents)
