"""The task that runs here: what a handler may ask about its own task."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime

import msgspec
from bson import ObjectId

from streamq.core.claim import Claim
from streamq.errors import UsageError


class TaskInfo(msgspec.Struct, frozen=True):
    """What is known of a running task. `attempt` counts from 1; `claim_id` is a token that outside systems may
    store to tell an old holder from a new one. `slot_at` is the instant a recurring task is for, None for any other."""

    id: ObjectId
    queue: str
    task: str | None
    attempt: int
    max_attempts: int
    priority: int
    headers: Mapping[str, str]
    created_at: datetime | None
    claim_id: bytes
    tag: str | None = None
    slot_at: datetime | None = None


RUNNING: ContextVar[Claim] = ContextVar("streamq_running_task")


def info_of(claim: Claim) -> TaskInfo:
    """Build the view of a claim that its handler gets."""
    return TaskInfo(
        id=claim.id,
        queue=claim.queue,
        task=claim.task,
        attempt=claim.attempt,
        max_attempts=claim.max_attempts,
        priority=claim.priority,
        headers=claim.headers or {},
        created_at=claim.created_at,
        claim_id=claim.claim_id,
        tag=claim.tag,
        slot_at=claim.slot_at,
    )


def current_task() -> TaskInfo:
    """Return the task whose handler is running here, in a handler of either kind (async or in a thread).

    Raises `UsageError` outside of a handler.
    """
    try:
        return info_of(RUNNING.get())
    except LookupError:
        raise UsageError("current_task() was called outside of a handler") from None
