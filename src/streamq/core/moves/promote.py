"""Promote: the oldest waiting task of an ordering group takes its turn, once the one before it has ended.

Every task of a group is put `blocked`. The one whose turn it is has `group_lock`, which a unique index gives to one
task of a group at a time; it keeps it through retries and snoozes, and every end takes it away. So whoever promotes,
and however many do, there is one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from streamq.core.document import BLOCKED, READY, TaskDocument
from streamq.core.transitions import next_status


def guard() -> dict[str, Any]:
    """Match what may take its turn: it waits for its group only, not for other tasks too."""
    return {"status": BLOCKED, "group": {"$type": "string"}, "blocked_by": {"$exists": False}}


def update() -> list[dict[str, Any]]:
    """Build the update; its filter names the task and has `guard`."""
    ready = next_status(BLOCKED, "unblock")
    later = {"$gt": ["$due_at", "$$NOW"]}
    return [
        {"$set": {"group_lock": "$group", "status": {"$cond": [later, next_status(BLOCKED, "unblock_later"), ready]}}},
        {"$set": {"ready_in": {"$cond": [{"$eq": ["$status", ready]}, "$queue", "$$REMOVE"]}}},
        {"$unset": "follow_up"},
    ]


def may_take_turn(document: TaskDocument) -> bool:
    """`guard`, for a document in memory."""
    return document["status"] == BLOCKED and "group" in document and "blocked_by" not in document


def apply(document: TaskDocument, now: datetime) -> None:
    """Promote a document in memory that nobody of its group stands before."""
    later = document.get("due_at", now) > now
    document["status"] = next_status(document["status"], "unblock_later" if later else "unblock")
    document["group_lock"] = document["group"]
    if document["status"] == READY:
        document["ready_in"] = document["queue"]
    document.pop("follow_up", None)
