"""A task as people and programs look at it: decoded, complete, and whatever else was stored."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from bson import ObjectId

from streamq.core.codec import from_stored
from streamq.core.document import Status, TaskDocument
from streamq.core.report import Progress, progress_of
from streamq.core.unique_key import loaded_key
from streamq.errors import PayloadUndecodable


class ErrorView(msgspec.Struct, frozen=True):
    """One failed attempt."""

    attempt: int
    type: str
    message: str
    traceback: str
    at: datetime | None
    worker: str


class TaskView(msgspec.Struct, frozen=True):
    """One task as it was stored at the look. None where it has no such thing (yet).

    `payload` and `result` are plain values; one that does not decode is as it is stored. `errors`: the newest last.
    `progress` is what its holder said last. `blocked_by` are the ids of the tasks whose ends it waits for.
    What another program stored as a task may hold anything in any field.
    """

    id: ObjectId
    queue: str
    handler: str | None
    status: Status
    priority: int
    attempt: int
    max_attempts: int
    payload: Any
    headers: Mapping[str, str]
    tag: str | None
    unique: Any
    group: str | None
    rate_key: str | None
    blocked_by: tuple[ObjectId, ...]
    worker: str | None
    created_at: datetime | None
    due_at: datetime | None
    expires_at: datetime | None
    lifetime_until: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    lease_until: datetime | None
    remove_at: datetime | None
    progress: Progress | None
    result: Any
    errors: tuple[ErrorView, ...]


def view_of(document: TaskDocument) -> TaskView:
    """Build the view of a stored task; nothing in the document can make it fail."""
    stored: Mapping[str, Any] = document
    errors, blocked_by = stored.get("errors"), stored.get("blocked_by")
    return TaskView(
        id=stored["_id"],
        queue=stored.get("queue", ""),
        handler=stored.get("task"),
        status=stored.get("status", ""),
        priority=stored.get("priority", 0),
        attempt=stored.get("attempt", 0),
        max_attempts=stored.get("max_attempts", 0),
        payload=_decoded(stored.get("payload")),
        headers=stored.get("headers", {}),
        tag=stored.get("tag"),
        unique=_key(stored.get("unique_key")),
        group=stored.get("group"),
        rate_key=stored.get("rate_key"),
        blocked_by=tuple(blocked_by) if isinstance(blocked_by, list) else (),
        worker=stored.get("worker"),
        created_at=stored.get("created_at"),
        due_at=stored.get("due_at"),
        expires_at=stored.get("expires_at"),
        lifetime_until=stored.get("lifetime_until"),
        started_at=stored.get("started_at"),
        finished_at=stored.get("finished_at"),
        lease_until=stored.get("lease_until"),
        remove_at=stored.get("remove_at"),
        progress=progress_of(stored),
        result=_decoded(stored.get("result")),
        errors=tuple(_error(one) for one in errors if isinstance(one, Mapping)) if isinstance(errors, list) else (),
    )


def _error(stored: Mapping[str, Any]) -> ErrorView:
    return ErrorView(
        attempt=stored.get("attempt", 0),
        type=stored.get("type", ""),
        message=stored.get("message", ""),
        traceback=stored.get("traceback", ""),
        at=stored.get("at"),
        worker=stored.get("worker", ""),
    )


def _key(stored: Any) -> Any:
    try:
        return None if stored is None else loaded_key(stored)
    except PayloadUndecodable:
        return stored


def _decoded(stored: Any) -> Any:
    try:
        return from_stored(stored)
    except PayloadUndecodable:
        return stored
