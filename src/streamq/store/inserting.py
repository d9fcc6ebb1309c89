"""The insert of a chunk of tasks, and what the server said of each."""

from __future__ import annotations

from typing import Final

import msgspec
import pymongo
from bson import ObjectId
from pymongo.errors import BulkWriteError, DuplicateKeyError

from streamq.core.codec import size_bytes
from streamq.errors import PayloadTooLarge, PutUnknown, StoreError
from streamq.store import twins
from streamq.store.collections import Document, Tasks
from streamq.store.faults import DUPLICATE_KEY, MAYBE_APPLIED

LARGEST_BYTES: Final = 16 * 1024 * 1024
"""What the server takes as one document."""


class Inserted(msgspec.Struct, frozen=True):
    """What an unordered insert turned away, by places (not ids: one put may name an id twice): those that were stored
    before, and those whose unique key another task has."""

    before: frozenset[int] = frozenset()
    met: frozenset[int] = frozenset()


ALL: Final = Inserted()


def insert(tasks: Tasks, documents: list[Document]) -> Inserted:
    """Insert with majority; say what was turned away. Raises the driver's errors, `PutUnknown`, `StoreError`. Trips: 1,
    of a single one that is turned away 2."""
    try:
        with tasks.deadline():
            if len(documents) == 1 and _insert_one(tasks, documents[0]):
                return ALL
            tasks.durable.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        return turned_away(error, documents)
    except pymongo.errors.DocumentTooLarge as error:
        raise too_large(documents) or StoreError(str(error)) from error
    return ALL


def _insert_one(tasks: Tasks, document: Document) -> bool:
    """Insert by a shorter way through the driver than a bulk of one; False when there is a duplicate.

    Of a duplicate this way does not tell whether the majority has what was stored before; a bulk's answer does.
    """
    try:
        tasks.durable.insert_one(document)
    except DuplicateKeyError:
        return False
    return True


def too_large(documents: list[Document]) -> PayloadTooLarge | None:
    """Say whether a put was refused for its size: the server has several codes for it, one of them for much else."""
    largest_bytes = max(map(size_bytes, documents))
    return PayloadTooLarge("a task", largest_bytes, LARGEST_BYTES) if largest_bytes > LARGEST_BYTES else None


def turned_away(error: BulkWriteError, documents: list[Document]) -> Inserted:
    """Return what was turned away because something is stored already, or raise what else went wrong."""
    details = error.details or {}
    ids: list[ObjectId] = [document["_id"] for document in documents]
    before: set[int] = set()
    met: set[int] = set()
    for one in details.get("writeErrors", ()):
        if one.get("code") == DUPLICATE_KEY and set(one.get("keyPattern", {})) == {"_id"}:
            before.add(one["index"])
        elif one.get("code") == DUPLICATE_KEY and twins.LOCK in one.get("keyPattern", {}):
            met.add(one["index"])
        elif one.get("code") in MAYBE_APPLIED:
            raise PutUnknown(ids, str(one.get("errmsg"))[:200]) from error
        else:
            said = f"cannot put task {ids[one['index']]}: {one.get('errmsg')}"
            raise too_large(documents) or StoreError(said) from error
    if details.get("writeConcernErrors"):
        raise PutUnknown(ids, str(details["writeConcernErrors"][0].get("errmsg"))[:200]) from error
    return Inserted(frozenset(before), frozenset(met))
