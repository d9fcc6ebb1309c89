"""Call back: a slot of its key is free for a task that waited for one. See `moves.delay`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from streamq.core.document import DELAYED, TaskDocument
from streamq.core.moves import release_due
from streamq.core.transitions import next_status


def update() -> list[dict[str, Any]]:
    """Build the update; its filter is `queries.held_up` and `delayed`."""
    return [{"$set": {"status": next_status(DELAYED, "release_due"), "ready_in": "$queue"}}]


def apply(document: TaskDocument, now: datetime) -> None:
    """Call a document in memory back."""
    key = document["held_up_by"]
    release_due.apply(document, now)
    document["held_up_by"] = key
