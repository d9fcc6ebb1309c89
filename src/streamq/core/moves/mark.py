"""Mark: a task that waits for others is to be looked at, because one of those is there no more.

Every marking changes the mark. So whoever looked before, and takes the mark off as it was then, leaves the new one.
"""

from __future__ import annotations

from typing import Any

from streamq.core.document import TaskDocument


def update() -> dict[str, Any]:
    """Build the update; its filter is `queries.children` or `queries.next_of`."""
    return {"$inc": {"follow_up": 1.0}}


def off() -> list[dict[str, Any]]:
    """Build the update that takes the mark of a dead letter off; its filter is `queries.marked_ends`."""
    return [{"$unset": "follow_up"}]


def apply(document: TaskDocument) -> None:
    """Mark a document in memory."""
    document["follow_up"] = document.get("follow_up", 0.0) + 1.0
