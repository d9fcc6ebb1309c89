"""What is said of whole queues, on the real server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from streamq.core.control import guard, pause_update, paused_of, queue_of, row_id
from streamq.store.collections import Tasks
from streamq.store.faults import reading


def pause(tasks: Tasks, queue: str, paused: bool) -> None:
    """See `Store.pause`. Trips: 2. Repeating it is harmless, so an unknown outcome is simply tried again."""
    with reading("pause or resume a queue"), tasks.deadline():
        while not _said(tasks, queue, pause_update(queue, paused, ObjectId())):
            pass  # somebody else has said something meanwhile; bounded by the deadline


def _said(tasks: Tasks, queue: str, update: list[dict[str, Any]]) -> bool:
    read = tasks.durable.find_one({"_id": row_id(queue)}, {"said": 1})
    try:
        written = tasks.durable.update_one(guard(queue, read), update, upsert=read is None)
    except DuplicateKeyError:
        return False
    return bool(written.matched_count) or written.upserted_id is not None


def paused(tasks: Tasks, queues: Sequence[str] | None) -> list[str]:
    """See `Store.paused`. Trips: 1, by the `_id` index."""
    with reading("ask which queues are paused"), tasks.deadline():
        found = tasks.quick.find(paused_of(queues), {"_id": 1}).sort("_id", 1)
        return [queue for row in found if (queue := queue_of(row["_id"])) is not None]
