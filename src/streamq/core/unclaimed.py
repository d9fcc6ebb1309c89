"""Ready tasks that no live worker knows the handler of: left for others, and visible as such.

Members say in their rows which handlers of which queues they claim; a loop without handlers claims whatever is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from streamq.core.document import READY


class Unclaimed(msgspec.Struct, frozen=True):
    """So many ready tasks of `queue` are for handler `task` (None: bare payloads), which no live worker claims."""

    queue: str
    task: str | None
    count: int


READY_BY_HANDLER: Final[list[dict[str, Any]]] = [
    {"$match": {"status": READY}},
    {"$group": {"_id": {"queue": "$queue", "task": "$task"}, "count": {"$sum": 1}}},
]
"""Reads every ready task once."""


def unclaimed_of(serves: Iterable[Any], ready: Iterable[tuple[Any, Any, int]]) -> list[Unclaimed]:
    """Compare what live members serve (`Member.serves`, as stored) with the ready tasks by queue and handler."""
    known = [one for one in serves if isinstance(one, Mapping)]
    left = [
        Unclaimed(queue, task, count)
        for queue, task, count in ready
        if type(queue) is str
        and isinstance(task, str | None)
        and not any(one.get("queue") == queue and _takes(one, task) for one in known)
    ]
    return sorted(left, key=lambda one: (one.queue, one.task or ""))


def _takes(served: Mapping[str, Any], task: str | None) -> bool:
    only = served.get("only")
    return only is None or (isinstance(only, list | tuple) and task in only)
