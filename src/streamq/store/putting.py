"""Storing new tasks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import pymongo
from bson import ObjectId
from pymongo.errors import BulkWriteError, DuplicateKeyError, ServerSelectionTimeoutError

from streamq.core.codec import size_bytes
from streamq.core.moves.put import document_of
from streamq.core.new_task import NewTask, PutReply
from streamq.errors import OptionInvalid, PayloadTooLarge, PutUnknown, StoreError
from streamq.store.collections import Document, Tasks
from streamq.store.faults import DRIVER_ERRORS, MAYBE_APPLIED, is_unknown, short, translated

MOST_AN_INSERT: Final = 1_000
"""Tasks in one insert: 120,000 per second were stored so (DESIGN section 3); more only delays the first ack."""

DUPLICATE_KEY: Final = 11000
LARGEST_BYTES: Final = 16 * 1024 * 1024
"""What the server takes as one document."""


def put(tasks: Tasks, new: Sequence[NewTask], now: datetime, session: Any) -> list[PutReply]:
    """Insert `new` in chunks; see `Store.put`."""
    replies: list[PutReply] = []
    for start in range(0, len(new), MOST_AN_INSERT):
        chunk = new[start : start + MOST_AN_INSERT]
        documents: list[Document] = [dict(document_of(one, now)) for one in chunk]
        if session is not None:
            replies += _insert_into(session, tasks, documents)
            continue
        try:
            replies += _insert(tasks, documents)
        except DRIVER_ERRORS as error:
            rest = [one.id for one in new[start:]]
            if is_unknown(error) or (start and isinstance(error, ServerSelectionTimeoutError)):
                # With parts of the put stored already, "nothing has changed" would be false.
                raise PutUnknown(rest, short(error)) from error
            raise _too_large(documents) or translated(error, "put tasks", writing=True) from error
        except PutUnknown as error:
            raise PutUnknown([one.id for one in new[start:]], error.reason) from error.__cause__
    return replies


def _insert_into(session: Any, tasks: Tasks, documents: list[Document]) -> list[PutReply]:
    """Insert in the caller's transaction, under its write concern and deadline.

    The driver's errors are not translated here: their labels tell the caller's `with_transaction` to run again.
    """
    tasks.durable.insert_many(documents, ordered=False, session=session)
    return [PutReply(document["_id"]) for document in documents]


def _insert(tasks: Tasks, documents: list[Document]) -> list[PutReply]:
    ids: list[ObjectId] = [document["_id"] for document in documents]
    try:
        with tasks.deadline():
            if len(documents) == 1 and _insert_one(tasks, documents[0]):
                return [PutReply(ids[0])]
            tasks.durable.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        stored_already = _stored_already(error, documents)
        return [PutReply(id, created=place not in stored_already) for place, id in enumerate(ids)]
    except pymongo.errors.DocumentTooLarge as error:
        raise _too_large(documents) or StoreError(str(error)) from error
    return [PutReply(id) for id in ids]


def _insert_one(tasks: Tasks, document: Document) -> bool:
    """Insert by a shorter way through the driver than a bulk of one; False when there is a duplicate.

    Of a duplicate this way does not tell whether the majority has what was stored before; a bulk's answer does.
    """
    try:
        tasks.durable.insert_one(document)
    except DuplicateKeyError:
        return False
    return True


def _too_large(documents: list[Document]) -> PayloadTooLarge | None:
    """Say whether a put was refused for its size: the server has several codes for it, one of them for much else."""
    largest_bytes = max(map(size_bytes, documents))
    return PayloadTooLarge("a task", largest_bytes, LARGEST_BYTES) if largest_bytes > LARGEST_BYTES else None


def _stored_already(error: BulkWriteError, documents: list[Document]) -> set[int]:
    """Return the places of those that were stored before (places, not ids: one put may name an id twice), or raise
    what else went wrong."""
    details = error.details or {}
    ids = [document["_id"] for document in documents]
    before: set[int] = set()
    for one in details.get("writeErrors", ()):
        if one.get("code") == DUPLICATE_KEY and set(one.get("keyPattern", {})) == {"_id"}:
            before.add(one["index"])
        elif one.get("code") == DUPLICATE_KEY:
            raise OptionInvalid("unique", one.get("keyValue"), "a value no other task has") from error
        elif one.get("code") in MAYBE_APPLIED:
            raise PutUnknown(ids, str(one.get("errmsg"))[:200]) from error
        else:
            said = f"cannot put task {ids[one['index']]}: {one.get('errmsg')}"
            raise _too_large(documents) or StoreError(said) from error
    if details.get("writeConcernErrors"):
        raise PutUnknown(ids, str(details["writeConcernErrors"][0].get("errmsg"))[:200]) from error
    return before
