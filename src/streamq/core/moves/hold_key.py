"""Hold a key: a unique key that outlives its task stands in a document of its own, in the meta collection.

It is written in the transaction that stores the task: what becomes of the task does not touch it. A person may free it.
The server removes it when its period has ended, once a minute or so; an ended one that is still there holds nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from streamq.core.document import TaskDocument
from streamq.core.moves.fence import after, after_ms
from streamq.core.unique_key import FOREVER_S, UniqueKey, held_id, stored_key

KIND: Final = "unique"


def guard(new: TaskDocument) -> dict[str, Any]:
    """Name the document of the key that `new` is to have; it is made if there is none."""
    return {"_id": held_id(new["queue"], new["unique_key"])}


def update(new: TaskDocument) -> list[dict[str, Any]]:
    """Build the update by which `new` holds its key, unless another task does: then it changes nothing.

    Whoever is named by `task_id` afterwards holds it.
    """
    holds_forever = {"$ne": [{"$type": "$remove_at"}, "date"]}
    is_held = {"$and": [{"$ne": [{"$type": "$task_id"}, "missing"]}, {"$or": [holds_forever, _is_ahead()]}]}
    return [{"$replaceWith": {"$cond": [is_held, "$$ROOT", {"$mergeObjects": [{"_id": "$_id"}, _fields(new)]}]}}]


def held(queue: str, key: UniqueKey) -> dict[str, Any]:
    """Match the document by which `key` is held now: to free it early that is deleted. One that has ended holds
    nothing, and is left to the server."""
    ends = {"$or": [{"remove_at": {"$not": {"$type": "date"}}}, {"$expr": _is_ahead()}]}
    return {"_id": held_id(queue, stored_key(key))} | ends


def is_held(document: dict[str, Any] | None, now: datetime) -> bool:
    """`held`, for a document in memory."""
    return document is not None and ("remove_at" not in document or document["remove_at"] > now)


def _is_ahead() -> dict[str, Any]:
    return {"$gt": ["$remove_at", "$$NOW"]}


def _fields(new: TaskDocument) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "kind": KIND,
        "queue": {"$literal": new["queue"]},
        "unique_key": {"$literal": new["unique_key"]},
        "task_id": new["_id"],
        "taken_at": "$$NOW",
    }
    if new["unique_for_s"] != FOREVER_S:
        fields["remove_at"] = after_ms(new["unique_for_s"])
    return fields


def apply(held: dict[str, dict[str, Any]], new: TaskDocument, now: datetime) -> dict[str, Any]:
    """Hold the key in memory; return who holds it afterwards."""
    id = held_id(new["queue"], new["unique_key"])
    if is_held(held.get(id), now):
        return held[id]
    held[id] = {"_id": id, "kind": KIND, "queue": new["queue"], "unique_key": new["unique_key"]}
    held[id] |= {"task_id": new["_id"], "taken_at": now}
    if new["unique_for_s"] != FOREVER_S:
        held[id]["remove_at"] = after(now, new["unique_for_s"])
    return held[id]
