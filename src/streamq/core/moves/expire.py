"""Expire: the time by which a task was to be started has come, and nobody has started it. Whoever was to do it need not
any more.

Only a task of which no attempt counts (`attempt` 0) expires: one that was retried or taken back has been started in
time and goes on. A release and a snooze take the attempt back, so after them the task has not been started.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from streamq.core.document import EXPIRED, READY, WAITING, TaskDocument
from streamq.core.moves.claim import WAKES
from streamq.core.moves.fence import end, left_behind, let_go, terminal_fields
from streamq.core.transitions import next_status


def update() -> list[dict[str, Any]]:
    """Build the update; its filter is `queries.expired`."""
    fields = {"status": next_status(READY, "expire"), **terminal_fields()}
    return [{"$set": fields}, {"$unset": [*WAKES, *left_behind(EXPIRED)]}]


def is_over(document: TaskDocument, now: datetime) -> bool:
    """`queries.EXPIRED_BY_NOW`, for a document in memory."""
    return document["attempt"] == 0 and "expires_at" in document and document["expires_at"] <= now


def is_expired(document: TaskDocument, now: datetime) -> bool:
    """`queries.expired`, for a document in memory."""
    return document["status"] in WAITING and is_over(document, now)


def apply(document: TaskDocument, now: datetime) -> None:
    """Expire a document in memory."""
    document["status"] = next_status(document["status"], "expire")
    for name in WAKES:
        document.pop(name, None)  # type: ignore[misc]
    end(document, None, now)
    let_go(document)
