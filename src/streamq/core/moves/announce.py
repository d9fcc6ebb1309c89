"""Announce: of many tasks that became ready together and of which none was told of, one says for all of them that its
queue is to be looked at.

Each process that takes from the queue hears it, whoever comes first for a single task (`core.rendezvous`). The next
announcement needs another task, as what is written must be a change; if there is none, each that waits has been
announced.
"""

from __future__ import annotations

from typing import Any

from streamq.core import queries
from streamq.core.document import READY, TaskDocument


def unannounced(queue: str) -> dict[str, Any]:
    """Match the ready tasks of `queue` that can say it; the first in the index of claims does."""
    return queries.waiting(queue) | {"freed_in": {"$exists": False}}


def update(queue: str) -> dict[str, Any]:
    """Build the update; its filter is `unannounced`."""
    return {"$set": {"freed_in": queue}}


def is_unannounced(document: TaskDocument, queue: str) -> bool:
    """`unannounced`, for a document in memory."""
    return document["status"] == READY and document["queue"] == queue and "freed_in" not in document


def apply(document: TaskDocument) -> None:
    """Let a document in memory say it."""
    document["freed_in"] = document["queue"]
