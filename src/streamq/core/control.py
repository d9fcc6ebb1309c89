"""Control: what a person says of a whole queue, for all workers: one document a queue, in the tasks collection, so that
the one stream tells it. `kind` and the missing `status` keep it out of every partial index and listing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bson import ObjectId

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


def guard(queue: str, read: Mapping[str, Any] | None) -> dict[str, Any]:
    """Match a queue's document as long as nothing has been said of it since it was read (None: there was none).

    A write that its sender has given up may come late, after what was said behind it: without this a pause that came
    after its resume would hold for ever. Where nothing was said, or by a version that did not name it, `said` is
    missing, which is what None matches.
    """
    return {"_id": row_id(queue), "said": {"$eq": None if read is None else read.get("said")}}


def pause_update(queue: str, paused: bool, said: ObjectId) -> list[dict[str, Any]]:
    """Build the upsert; `said` names it. Said again it changes `paused` not: that is told when it changes, and at the
    first."""
    fields = {"kind": CONTROL, "queue": {"$literal": queue}, "paused": paused, "said": said, "changed_at": "$$NOW"}
    return [{"$set": fields}]
