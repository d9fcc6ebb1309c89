"""Requeue: a task that has ended begins again, because a person wants it.

It keeps its place (`seq`): among tasks of its priority it is claimed before those that were put later. It keeps its
errors, and who waits for its end: children that had not learnt of its last end wait for the next. What its end wrote is
unset, so that the next end is a change that the stream tells.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec
from bson import ObjectId

from streamq.core.document import BLOCKED, READY, SUCCEEDED, TERMINAL, TaskDocument
from streamq.core.moves.fence import IS_GROUPED, after, after_ms
from streamq.core.transitions import next_status
from streamq.core.unique_key import lock_again

ENDED_BY: Final[tuple[str, ...]] = (
    *("finished_at", "remove_at", "result", "settled_for", "freed_in", "follow_up"),
    "expires_at",
)
"""What a terminal move has written, and the time that has run out: who requeues an expired task wants it to run."""


class Requeue(msgspec.Struct, frozen=True):
    """How tasks are requeued.

    `id` is this request's own: it is kept on the tasks (`requeue_id`), and tells those that it requeued from those that
    another request did at the same time. With `reset` attempts are counted from the beginning; without, one more than
    were made is allowed, if none was left.
    """

    id: ObjectId
    delay_s: float = 0.0
    reset: bool = True


def guard() -> dict[str, Any]:
    """Match what may be requeued: of two who requeue one task, the second finds nothing."""
    return {"status": {"$in": list(TERMINAL)}}


def plain() -> dict[str, Any]:
    """Match what may be requeued and has no unique key, so that many can share one statement."""
    return guard() | {"unique_key": {"$exists": False}}


def update(how: Requeue, lock: bytes | None = None) -> list[dict[str, Any]]:
    """Build the update. `lock` is what the task's unique key locks again (`unique_key.lock_again`)."""
    fields: dict[str, Any] = {"status": next_status(SUCCEEDED, _move(how)), "requeue_id": how.id}
    if how.delay_s > 0:
        fields["due_at"] = after_ms(how.delay_s)
    else:
        fields["ready_in"] = "$queue"
    if lock is not None:
        fields["unique_lock"] = lock
    unset = [*ENDED_BY, *(() if how.delay_s > 0 else ("due_at",))]
    if how.reset:
        fields["attempt"] = 0
    else:
        fields["max_attempts"] = {"$max": ["$max_attempts", {"$add": ["$attempt", 1]}]}
    waits = {"status": next_status(SUCCEEDED, "requeue_blocked"), "ready_in": "$$REMOVE", "follow_up": 0.0}
    # One of a group waits for its turn again.
    again = {name: {"$cond": [IS_GROUPED, value, f"${name}"]} for name, value in waits.items()}
    return [{"$set": fields}, {"$unset": unset}, {"$set": again}]


def apply(document: TaskDocument, how: Requeue, now: datetime) -> None:
    """Requeue a document in memory, which no twin hinders."""
    document["status"] = next_status(document["status"], "requeue_blocked" if "group" in document else _move(how))
    lock = lock_again(document)
    if lock is not None:
        document["unique_lock"] = lock
    document["requeue_id"] = how.id
    if how.delay_s > 0:
        document["due_at"] = after(now, how.delay_s)
    else:
        document.pop("due_at", None)  # one of a group would wait for it
    if document["status"] == READY:
        document["ready_in"] = document["queue"]
    if how.reset:
        document["attempt"] = 0
    else:
        document["max_attempts"] = max(document["max_attempts"], document["attempt"] + 1)
    for name in ENDED_BY:
        document.pop(name, None)  # type: ignore[misc]
    if document["status"] == BLOCKED:
        document["follow_up"] = 0.0


def _move(how: Requeue) -> str:
    return "requeue_later" if how.delay_s > 0 else "requeue"
