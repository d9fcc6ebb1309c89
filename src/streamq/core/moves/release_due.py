"""Release due: a delayed task's time has come; it takes its place among the ready ones."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from streamq.core.document import DELAYED, TaskDocument
from streamq.core.transitions import next_status


def update(*, quietly: bool = False) -> list[dict[str, Any]]:
    """Build the update; its filter is `queries.due`, with the ids that were found by it. `quietly`: the streams do not
    tell it, somebody will `announce` it."""
    told = {} if quietly else {"ready_in": "$queue"}
    return [{"$set": {"status": next_status(DELAYED, "release_due")} | told}, {"$unset": "held_up_by"}]


def is_due(document: TaskDocument, now: datetime) -> bool:
    """`queries.due`, for a document in memory."""
    return document["status"] == DELAYED and document["due_at"] <= now


def apply(document: TaskDocument, now: datetime, *, quietly: bool = False) -> None:
    """Release a document in memory."""
    document["status"] = next_status(document["status"], "release_due")
    if not quietly:
        document["ready_in"] = document["queue"]
    document.pop("held_up_by", None)
