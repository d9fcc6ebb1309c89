"""Storing new tasks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import pymongo
from bson import ObjectId
from pymongo.errors import BulkWriteError, PyMongoError

from streamq.core.moves.put import document_of
from streamq.core.new_task import NewTask, PutReply
from streamq.errors import OptionInvalid, PayloadTooLarge, PutUnknown, StoreError
from streamq.store.collections import Document, Tasks
from streamq.store.faults import MAYBE_APPLIED, is_unknown, short, translated

MOST_AN_INSERT: Final = 1_000
"""Tasks in one insert: 120,000 per second were stored so (DESIGN section 3); more only delays the first ack."""

DUPLICATE_KEY: Final = 11000
TOO_LARGE: Final = frozenset({10334, 17280, 17420})


def put(tasks: Tasks, new: Sequence[NewTask], now: datetime, session: Any) -> list[PutReply]:
    """Insert `new` in chunks; see `Store.put`."""
    replies: list[PutReply] = []
    for start in range(0, len(new), MOST_AN_INSERT):
        chunk = new[start : start + MOST_AN_INSERT]
        documents: list[Document] = [dict(document_of(one, now)) for one in chunk]
        try:
            replies += _insert(tasks, documents, session)
        except PyMongoError as error:
            rest = [one.id for one in new[start:]]
            if is_unknown(error):
                raise PutUnknown(rest, short(error)) from error
            raise translated(error, "put tasks", writing=True) from error
        except PutUnknown as error:
            raise PutUnknown([one.id for one in new[start:]], error.reason) from error.__cause__
    return replies


def _insert(tasks: Tasks, documents: list[Document], session: Any) -> list[PutReply]:
    ids: list[ObjectId] = [document["_id"] for document in documents]
    try:
        if session is not None:
            # Inside a transaction its own write concern and the caller's deadline hold.
            tasks.durable.insert_many(documents, ordered=False, session=session)
        else:
            with tasks.deadline():
                tasks.durable.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        stored_already = _stored_already(error, ids)
        return [PutReply(id, created=place not in stored_already) for place, id in enumerate(ids)]
    except pymongo.errors.DocumentTooLarge as error:
        raise PayloadTooLarge("a task", 16 * 1024 * 1024, 16 * 1024 * 1024) from error
    return [PutReply(id) for id in ids]


def _stored_already(error: BulkWriteError, ids: list[ObjectId]) -> set[int]:
    """Return the places of those that were stored before (places, not ids: one put may name an id twice), or raise
    what else went wrong."""
    details = error.details or {}
    before: set[int] = set()
    for one in details.get("writeErrors", ()):
        if one.get("code") == DUPLICATE_KEY and set(one.get("keyPattern", {})) == {"_id"}:
            before.add(one["index"])
        elif one.get("code") == DUPLICATE_KEY:
            raise OptionInvalid("unique", one.get("keyValue"), "a value no other task has") from error
        elif one.get("code") in MAYBE_APPLIED:
            raise PutUnknown(ids, str(one.get("errmsg"))[:200]) from error
        elif one.get("code") in TOO_LARGE:
            raise PayloadTooLarge("a task", 16 * 1024 * 1024, 16 * 1024 * 1024) from error
        else:
            raise StoreError(f"cannot put task {ids[one['index']]}: {one.get('errmsg')}") from error
    if details.get("writeConcernErrors"):
        raise PutUnknown(ids, str(details["writeConcernErrors"][0].get("errmsg"))[:200]) from error
    return before
