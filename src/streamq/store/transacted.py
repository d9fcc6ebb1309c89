"""Putting inside a transaction: the caller's own, or one made for a task whose unique key outlives it.

A duplicate ends a transaction on the server, so here a key is asked for before anything is inserted. A twin that is
stored in between makes a write conflict: the driver's label on it tells `with_transaction` to run again, and then the
twin is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bson import ObjectId
from pymongo import ReadPreference, ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from streamq.core.moves import hold_key, replace
from streamq.core.new_task import NewTask, PutReply
from streamq.errors import PutUnknown, UniqueConflict
from streamq.store import twins
from streamq.store.collections import Document, Tasks
from streamq.store.faults import DUPLICATE_KEY, short

HELD_APART: Final = "unique_for_s"
"""The mark of a task whose key is held in a document of its own."""


def put_within(session: Any, tasks: Tasks, new: Sequence[NewTask], documents: Sequence[Document]) -> list[PutReply]:
    """Insert in a transaction, under its write concern and deadline.

    The driver's errors are not translated here: their labels tell `with_transaction` to run again. But for a duplicate
    of a unique key: it ends the transaction, and nothing would be said of why.

    Trips: 1; 1 more for tasks with a key, 1 for each that replaces, 1 for each key that outlives its task.
    """
    locked = [document for document in documents if twins.LOCK in document]
    held = twins.holders(tasks.durable, locked, session)
    own = set(held.values())
    who: list[ObjectId] = [_who_has(session, tasks, document, held) for document in documents]
    mine = [one for one, id in zip(documents, who, strict=True) if one["_id"] == id and id not in own]
    if mine:
        try:
            tasks.durable.insert_many(mine, ordered=False, session=session)
        except BulkWriteError as error:
            raise _conflict(error, new, mine) or error from error
    return [
        _reply(session, tasks, one, document, id, own) for one, document, id in zip(new, documents, who, strict=True)
    ]


def _who_has(session: Any, tasks: Tasks, document: Document, held: dict[twins.Lock, ObjectId]) -> ObjectId:
    """Say which task is there once this put is done: itself, or the one that has its key. Takes a key that is free."""
    id: ObjectId = document["_id"]
    if twins.LOCK in document:
        id = held.setdefault(twins.lock_of(document), id)
    elif HELD_APART in document:
        holder = tasks.meta.find_one_and_update(
            hold_key.guard(document),  # type: ignore[arg-type]
            hold_key.update(document),  # type: ignore[arg-type]
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        assert holder is not None  # an upsert
        id = holder["task_id"]
    return id


def _reply(session: Any, tasks: Tasks, new: NewTask, document: Document, id: ObjectId, own: set[ObjectId]) -> PutReply:
    if id == new.id:
        return PutReply(id, "existing" if id in own else "created")
    if new.options.on_conflict == "replace":
        guard = replace.guard_of(document["queue"], id)
        if twins.take_over(tasks, guard, document, session) is not None:
            return PutReply(id, "replaced")
    return twins.answer(new, id)


def _conflict(error: BulkWriteError, new: Sequence[NewTask], mine: Sequence[Document]) -> UniqueConflict | None:
    """Say whether an insert in a transaction failed because of a unique key."""
    for one in _duplicates(error):
        if twins.LOCK in one.get("keyPattern", {}):
            id = mine[one["index"]]["_id"]
            return next(UniqueConflict(task.options.unique, task.queue, None) for task in new if task.id == id)
    return None


def _duplicates(error: BulkWriteError) -> list[Mapping[str, Any]]:
    return [one for one in (error.details or {}).get("writeErrors", ()) if one.get("code") == DUPLICATE_KEY]


def put_apart(tasks: Tasks, new: NewTask, document: Document) -> PutReply:
    """Store one task whose key outlives it, in a transaction of its own. Raises the driver's errors, `PutUnknown`.

    Trips: 3; more when somebody puts the key at the same moment.
    """

    def put(session: ClientSession) -> PutReply:
        return put_within(session, tasks, [new], [document])[0]

    majority = WriteConcern(w="majority", j=True)
    with tasks.deadline():
        for _ in range(twins.MOST_ROUNDS):
            try:
                with tasks.meta.database.client.start_session() as session:
                    return session.with_transaction(put, ReadConcern("majority"), majority, ReadPreference.PRIMARY)
            except BulkWriteError as error:
                # Its id is taken: by its own first copy, if the reply was lost.
                if not _duplicates(error):
                    raise
                if tasks.committed.find_one({"_id": new.id}, {"_id": 1}) is not None:
                    return PutReply(new.id, "existing")
            except PyMongoError as error:
                if error.has_error_label("UnknownTransactionCommitResult"):
                    raise PutUnknown([new.id], short(error)) from error
                raise
    raise PutUnknown([new.id], "its id is stored, but not by a majority yet")
