"""Retain: what waited for an ended task has been seen to; from now on the task itself is kept for its own sake only."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from streamq.core.document import TaskDocument
from streamq.core.moves.fence import after

GRACE_S: Final = 120.0
"""How long a parent is kept at least. A child whose put has seen it before may be stored (or committed: a transaction
lasts a minute at most) after the others were seen to, and would take a parent that is not there for one that failed."""


def update() -> list[dict[str, Any]]:
    """Build the update; its filter is `queries.marked_ends`."""
    kept_s = {"$max": ["$follow_up", {"$cond": ["$has_children", GRACE_S, 0.0]}]}
    return [
        {"$set": {"remove_at": {"$add": ["$$NOW", {"$toLong": {"$multiply": [kept_s, 1000]}}]}}},
        {"$unset": "follow_up"},
    ]


def apply(document: TaskDocument, now: datetime) -> None:
    """Begin the retention of a document in memory."""
    kept_s = max(document["follow_up"], GRACE_S if document.get("has_children") else 0.0)
    document["remove_at"] = after(now, kept_s)
    del document["follow_up"]
