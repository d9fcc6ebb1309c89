"""Putting inside a transaction: the caller's own, or one made for tasks whose unique keys outlive them.

A duplicate ends a transaction on the server, so here a key is asked for before anything is inserted. A twin that is
stored in between makes a write conflict: the driver's label on it tells `with_transaction` to run again, and then the
twin is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bson import ObjectId
from pymongo import ReadPreference, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError, ServerSelectionTimeoutError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from streamq.core.moves import hold_key, replace
from streamq.core.new_task import NewTask, PutReply
from streamq.errors import PutUnknown, StoreError, UniqueConflict
from streamq.store import twins
from streamq.store.collections import Document, Tasks
from streamq.store.faults import DRIVER_ERRORS, DUPLICATE_KEY, short

Put = tuple[NewTask, Document]

HELD_APART: Final = "unique_for_s"
"""The mark of a task whose key is held in a document of its own."""


def put_within(session: Any, tasks: Tasks, new: Sequence[NewTask], documents: Sequence[Document]) -> list[PutReply]:
    """Insert in a transaction, under its write concern and deadline.

    The driver's errors are not translated here: their labels tell `with_transaction` to run again. But for a duplicate
    of a unique key: it ends the transaction, and nothing would be said of why.

    Trips: 1; 1 more a queue for tasks with a key, 2 for all keys that outlive their tasks, 1 for each that replaces.
    """
    locked = [document for document in documents if twins.LOCK in document]
    held = twins.holders(tasks.durable, locked, session)
    own = set(held.values())
    keys = _take_keys(session, tasks, [document for document in documents if HELD_APART in document])
    who = [_who_has(document, held, keys) for document in documents]
    mine = [one for one, id in zip(documents, who, strict=True) if one["_id"] == id and id not in own]
    if mine:
        try:
            tasks.durable.insert_many(mine, ordered=False, session=session)
        except BulkWriteError as error:
            raise _conflict(error, new, mine) or error from error
    return [
        _reply(session, tasks, one, document, id, own) for one, document, id in zip(new, documents, who, strict=True)
    ]


def _take_keys(session: Any, tasks: Tasks, documents: Sequence[Document]) -> dict[str, ObjectId]:
    """Take the keys that outlive their tasks, those that are free; say who holds each, by the id of its document."""
    if not documents:
        return {}
    asked = [(hold_key.guard(one), hold_key.update(one)) for one in documents]  # type: ignore[arg-type]
    # In order: of two tasks of one put with one key the first is to have it.
    tasks.meta.bulk_write([UpdateOne(guard, update, upsert=True) for guard, update in asked], session=session)
    names = {guard["_id"] for guard, _ in asked}
    return {one["_id"]: one["task_id"] for one in tasks.meta.find({"_id": {"$in": list(names)}}, session=session)}


def _who_has(document: Document, held: dict[twins.Lock, ObjectId], keys: Mapping[str, ObjectId]) -> ObjectId:
    """Say which task is there once this put is done: itself, or the one that has its key."""
    id: ObjectId = document["_id"]
    if twins.LOCK in document:
        return held.setdefault(twins.lock_of(document), id)
    if HELD_APART in document:
        return keys[hold_key.guard(document)["_id"]]  # type: ignore[arg-type]
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


def put_apart(tasks: Tasks, put: Sequence[Put]) -> list[PutReply]:
    """Store tasks whose keys outlive them, all in one transaction of their own, and answer for each.

    When somebody else writes one of the keys at the same moment the half that has it goes in a transaction of its own,
    and so on: the others do not wait for it. Raises the driver's errors, `PutUnknown`, both with parts of it stored.

    Trips: 4, of a single one 3; more when there is somebody else.
    """
    if len(put) == 1:
        return [_put_one_apart(tasks, *put[0])]
    try:
        with tasks.deadline():
            return _in_transaction(tasks, put, again=False)
    except _Crossed:
        stored = _stored_before(tasks, put)
    # A put that is repeated finds its own first copies: all that are there are answered for at once.
    rest = [one for one in put if one[0].id not in stored]
    replies: list[PutReply] = []
    for part in (rest[: (len(rest) + 1) // 2], rest[(len(rest) + 1) // 2 :]):
        try:
            replies += put_apart(tasks, part) if part else []
        except (*DRIVER_ERRORS, StoreError) as error:
            if not replies:
                raise
            raise PutUnknown([one.id for one, _ in put], short(error)) from error
    answers = iter(replies)
    return [PutReply(one.id, "existing") if one.id in stored else next(answers) for one, _ in put]


def _in_transaction(tasks: Tasks, put: Sequence[Put], *, again: bool) -> list[PutReply]:
    """Put in one transaction; run it `again`, or raise `_Crossed`, when somebody else writes the same."""
    new, documents = [one for one, _ in put], [document for _, document in put]

    def body(session: ClientSession) -> list[PutReply]:
        try:
            return put_within(session, tasks, new, documents)
        except ServerSelectionTimeoutError as error:
            raise _Away(error) from error  # which the driver does not try again: the time for that is over
        except PyMongoError as error:
            crossed = error.has_error_label("TransientTransactionError") and isinstance(error, OperationFailure)
            if not again and (crossed or (isinstance(error, BulkWriteError) and _duplicates(error))):
                raise _Crossed from error
            raise

    majority = WriteConcern(w="majority", j=True)
    try:
        with tasks.meta.database.client.start_session() as session:
            return session.with_transaction(body, ReadConcern("majority"), majority, ReadPreference.PRIMARY)
    except _Away as away:
        raise away.error from None
    except PyMongoError as error:
        if error.has_error_label("UnknownTransactionCommitResult"):
            raise PutUnknown([one.id for one in new], short(error)) from error
        raise


class _Away(Exception):
    """No server was found for a transaction, nothing of which will be stored."""

    def __init__(self, error: ServerSelectionTimeoutError) -> None:
        self.error = error


class _Crossed(Exception):
    """A transaction for many met somebody else's write, or an id that is stored."""


def _stored_before(tasks: Tasks, put: Sequence[Put]) -> set[ObjectId]:
    with tasks.deadline():
        found = tasks.committed.find({"_id": {"$in": [one.id for one, _ in put]}}, {"_id": 1})
        return {one["_id"] for one in found}


def _put_one_apart(tasks: Tasks, new: NewTask, document: Document) -> PutReply:
    with tasks.deadline():
        for _ in range(twins.MOST_ROUNDS):
            try:
                return _in_transaction(tasks, [(new, document)], again=True)[0]
            except BulkWriteError as error:
                # Its id is taken: by its own first copy, if the reply was lost.
                if not _duplicates(error):
                    raise
                if tasks.committed.find_one({"_id": new.id}, {"_id": 1}) is not None:
                    return PutReply(new.id, "existing")
    raise PutUnknown([new.id], "its id is stored, but not by a majority yet")
