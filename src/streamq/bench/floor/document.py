"""What streamq stores and writes, in plain PyMongo's terms. A test compares it with what streamq really stores."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from bson import ObjectId
from bson.timestamp import Timestamp

from streamq.bench.place import HANDLER, QUEUE

LEASE_MS: Final = 30_000
CLAIM_ORDER: Final = [("priority", -1), ("seq", 1)]
READY: Final[Mapping[str, Any]] = {"status": "ready", "queue": QUEUE, "task": {"$in": [HANDLER]}}
NEEDED: Final = {"payload": 1, "task": 1, "attempt": 1, "max_attempts": 1}
"""What a program needs of a task to run it."""


def document(number: int, **more: Any) -> dict[str, Any]:
    """Build what streamq stores for a put of the bench's handler."""
    return {
        "_id": ObjectId(),
        "v": 1,
        "queue": QUEUE,
        "task": HANDLER,
        "status": "ready",
        "priority": 0,
        "seq": Timestamp(0, 0),
        "payload": {"number": number},
        "attempt": 0,
        "max_attempts": 5,
        "created_at": datetime.now(UTC),
        "keep_s": 0.0,
        **more,
    }


def new_claim_id() -> bytes:
    """Make the name of a claim."""
    return os.urandom(16)


def claim_update(claim_id: bytes, lease_ms: int = LEASE_MS) -> list[dict[str, Any]]:
    """Build the claim that streamq writes."""
    fields = {
        "status": "running",
        "claim_id": claim_id,
        "lease_until": {"$add": ["$$NOW", lease_ms]},
        "attempt": {"$add": ["$attempt", 1]},
        "worker": "floor",
        "started_at": "$$NOW",
    }
    return [{"$set": fields}, {"$unset": ["ready_in", "freed_in", "held_up_by"]}]


def guard(ids: Iterable[ObjectId]) -> dict[str, Any]:
    """Match what may still be claimed of tasks that were just found ready."""
    return {"_id": {"$in": list(ids)}, "queue": QUEUE, "status": "ready", "attempt": 0}


def fence(ids: Iterable[ObjectId], claim_id: bytes) -> dict[str, Any]:
    """Build the fence of a settlement."""
    return {"_id": {"$in": list(ids)}, "queue": QUEUE, "status": "running", "claim_id": claim_id}
