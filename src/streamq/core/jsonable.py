"""A stored task as JSON, for other programs: ids, dates and bytes become text."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Any, Final

from streamq.core.codec import from_stored
from streamq.core.document import TaskDocument
from streamq.errors import PayloadUndecodable

FIELDS: Final = (
    *("queue", "task", "status", "priority", "attempt", "max_attempts", "worker"),
    *("created_at", "due_at", "started_at", "finished_at", "lease_until", "remove_at"),
    *("expires_at", "lifetime_until", "total_until"),
    *("tag", "unique_key", "group", "rate_key", "blocked_by", "headers"),
    *("payload", "progress", "result", "errors"),
)
"""What is shown of a task beside its id, in this order, before whatever else was stored."""

OWN: Final = frozenset(
    {
        "_id",
        "v",
        "seq",
        "keep_s",
        "keep_failed_s",
        "claim_id",
        "settled_by",
        "ready_in",
        "reply_to",
        "settled_for",
        "unique_lock",
        "requeue_id",
        "revision",
        "freed_in",
        "slot",
        "key_slot",
        "group_lock",
        "follow_up",
        "has_children",
    }
)
"""What is streamq's own (sequence, claim, addresses), and shown to nobody."""


def record(document: TaskDocument) -> dict[str, Any]:
    """Return a task as one JSON object; fields it does not have are left out."""
    stored: Mapping[str, Any] = document
    others = [field for field in stored if field not in OWN and field not in FIELDS]
    shown = {field: jsonable(stored[field]) for field in (*FIELDS, *others) if field in stored}
    return {"id": str(document["_id"]), **shown}


def jsonable(stored: Any) -> Any:
    """Return a stored value as what JSON holds; what cannot be decoded is shown as it is stored."""
    try:
        return _plain(from_stored(stored))
    except PayloadUndecodable:
        return _plain(stored)


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case dict():
            return {key if isinstance(key, str) else str(_plain(key)): _plain(one) for key, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(one) for one in value]
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case _:
            return str(value)
