"""Control: what a person says of a whole queue, for all workers: one document a queue, in the tasks collection, so that
the one stream tells it. `kind` and the missing `status` keep it out of every partial index and listing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

CONTROL: Final = "control"
PREFIX: Final = "control:queue:"

EVERY: Final[dict[str, Any]] = {"_id": {"$gte": PREFIX, "$lt": "control:queue;"}}
"""The filter that finds the documents of all queues by a range of the `_id` index (`;` follows `:`)."""


def row_id(queue: str) -> str:
    """The `_id` of a queue's document."""
    return PREFIX + queue


def queue_of(row_id: object) -> str | None:
    """Return the queue whose document that is; None when it is another's."""
    return row_id.removeprefix(PREFIX) if isinstance(row_id, str) and row_id.startswith(PREFIX) else None


def paused_of(queues: Iterable[str] | None) -> dict[str, Any]:
    """Match the documents of those of `queues` (None: of all) that are paused."""
    found = EVERY if queues is None else {"_id": {"$in": [row_id(queue) for queue in queues]}}
    return found | {"paused": True}


def pause_update(queue: str, paused: bool) -> list[dict[str, Any]]:
    """Build the upsert. Said again it changes `changed_at` only: `paused` is told when it changes, and at the first."""
    fields = {"kind": CONTROL, "queue": {"$literal": queue}, "paused": paused, "changed_at": "$$NOW"}
    return [{"$set": fields}]
