"""Replace: a put that meets a task with its unique key takes its place, if that task has not started.

The task keeps its id, its place in the order of storing, and whoever waits for it; it gets the rest from the new put.
`revision` is counted up, so that a claim which read the task before this does not take it with the old payload: a
claim by query reads first and takes then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bson import ObjectId

from streamq.core.document import BLOCKED, DELAYED, READY, WAITING, TaskDocument
from streamq.core.transitions import next_status

NOT_STARTED: Final[dict[str, Any]] = {"status": {"$in": list(WAITING)}, "attempt": 0}

TAKEN_OVER: Final = (
    "task",
    "payload",
    "priority",
    "max_attempts",
    "due_at",
    "expires_at",
    "lifetime_until",
    "total_timeout_s",
    "total_until",  # never in a new put: a claim that was given back had begun the time of the old one
    "keep_s",
    "keep_failed_s",
    "headers",
    "tag",
    "rate_key",
    "held_up_by",  # never in a new put: whether a slot is free for it is asked again
)
"""What the task gets from the new put, or loses if that does not say it."""


def guard(new: TaskDocument) -> dict[str, Any]:
    """Match the task that has the key of `new`, if it has not started; never the put's own first copy."""
    has_key = {"queue": new["queue"], "unique_lock": new["unique_lock"], "_id": {"$ne": new["_id"]}}
    return has_key | NOT_STARTED


def guard_of(queue: str, id: ObjectId) -> dict[str, Any]:
    """Match the task of which is known that it has the key, if it has not started."""
    return {"_id": id, "queue": queue} | NOT_STARTED


def update(new: TaskDocument) -> list[dict[str, Any]]:
    """Build the update by which a task takes over what `new` would have been."""
    status = {"$eq": ["$status", BLOCKED]}
    fields: dict[str, Any] = {name: {"$literal": value} for name, value in _taken(new).items()}
    fields["status"] = {"$cond": [status, next_status(BLOCKED, _move(new)), next_status(DELAYED, _move(new))]}
    fields["revision"] = {"$add": [{"$ifNull": ["$revision", 0]}, 1]}
    if not _is_later(new):
        # Only what was delayed becomes ready: the address must be a change, or nobody hears of it.
        fields["ready_in"] = {"$cond": [{"$eq": ["$status", DELAYED]}, "$queue", "$ready_in"]}
    if "reply_to" in new:
        waiting = {"$cond": [{"$isArray": ["$reply_to"]}, "$reply_to", []]}
        named = {"$literal": new["reply_to"]}
        fields["reply_to"] = {"$concatArrays": [{"$setDifference": [waiting, named]}, named]}
    unset = [name for name in TAKEN_OVER if name not in new]
    if _is_later(new):
        unset.append("ready_in")
    return [{"$set": fields}, *([{"$unset": unset}] if unset else [])]


def is_replaceable(document: TaskDocument) -> bool:
    """`guard`, for a document in memory that has the key."""
    return document["status"] in WAITING and document["attempt"] == 0


def apply(document: TaskDocument, new: TaskDocument) -> None:
    """Let a document in memory take over what `new` would have been."""
    was = document["status"]
    document["status"] = next_status(was, _move(new))
    for name in TAKEN_OVER:
        document.pop(name, None)  # type: ignore[misc]
    document.update(_taken(new))  # type: ignore[typeddict-item]
    document["revision"] = document.get("revision", 0) + 1
    if "reply_to" in new:
        waiting = [one for one in document.get("reply_to", ()) if one not in new["reply_to"]]
        document["reply_to"] = [*waiting, *new["reply_to"]]
    if document["status"] == READY and was == DELAYED:
        document["ready_in"] = document["queue"]
    elif _is_later(new):
        document.pop("ready_in", None)


def _move(new: TaskDocument) -> str:
    """A blocked task stays so whichever it is: only what it waits for can end that."""
    return "replace_later" if _is_later(new) else "replace"


def _is_later(new: TaskDocument) -> bool:
    return "due_at" in new


def _taken(new: Mapping[str, Any]) -> dict[str, Any]:
    return {name: new[name] for name in TAKEN_OVER if name in new}
