"""Notices: what the extra wake channel, the small capped collection `<collection>.wakes`, is told of a put.

    {seq, queues: [...], told: [{id, queue, task, durable?}, ...]}    of a put
    {seq, bell}                                                      to end the reading of one feed

A notice is a hint beside the change stream, which tells of the same tasks a moment later: nothing is owed to it. It
names the first tasks of a put; the stream tells of the others.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from bson import ObjectId
from bson.timestamp import Timestamp

from streamq.core.document import ASSIGN_SEQ, READY
from streamq.core.wake import Wake

WakeBy = Literal["stream", "tailable"]
"""By what puts wake workers: the change stream alone, or a capped collection besides."""

SUFFIX: Final = ".wakes"

SIZE_BYTES: Final = 1024 * 1024
"""Of the capped collection: about 7,000 notices of one task. A reader that is further behind has lost some, which the
change stream tells of."""

MOST_NAMED: Final = 64
"""Tasks in one notice: about what one process takes at once. The largest (names of 200 characters) has 30 KB, so that a
turn of the collection holds 35 at least."""

SEED: Final[Mapping[str, Any]] = {"seq": ASSIGN_SEQ}
"""A tailable cursor on an empty collection is dead at once."""


def notice_of(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Build the notice of new tasks; None when none of them can start now."""
    ready = [one for one in documents if one["status"] == READY and "follow_up" not in one]
    if not ready:
        return None
    told = [_told(one) for one in ready[:MOST_NAMED]]
    return {"seq": ASSIGN_SEQ, "queues": sorted({one["queue"] for one in told}), "told": told}


def _told(document: Mapping[str, Any]) -> dict[str, Any]:
    told = {"id": document["_id"], "queue": document["queue"], "task": document["task"]}
    return told | {"durable": True} if document["max_attempts"] == 1 else told


def bell_of(bell: str) -> dict[str, Any]:
    """Build what the feed named `bell` ends at."""
    return {"seq": ASSIGN_SEQ, "bell": bell}


def wanted(queues: Sequence[str], bell: str, after: Timestamp) -> dict[str, Any]:
    """Match the notices of `queues` that were written after one, and the feed's own bell."""
    return {"seq": {"$gt": after}, "$or": [{"queues": {"$in": list(queues)}}, {"bell": bell}]}


def wakes_of(notice: Mapping[str, Any], queues: Container[str]) -> list[Wake]:
    """Read a notice; what is none, and tasks of other queues, are left out: anyone may have written it."""
    told = notice.get("told")
    wakes = []
    for one in told if isinstance(told, list) else ():
        id, queue, task = (
            (one.get(name) for name in ("id", "queue", "task")) if isinstance(one, Mapping) else (None,) * 3
        )
        if isinstance(id, ObjectId) and type(queue) is str and queue in queues:
            durable = one.get("durable") is True
            wakes.append(Wake("ready", id, queue, task if type(task) is str else None, is_new=True, durable=durable))
    return wakes
