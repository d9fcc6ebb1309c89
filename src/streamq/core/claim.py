"""A claim: the right to run one task, and the request that obtains it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from bson import ObjectId


class Claim(msgspec.Struct, frozen=True):
    """One task in the hands of one holder.

    Every write of the holder carries `{_id, queue, status: running, claim_id}` (the fence). One `claim_id` is
    shared by all tasks that one call claimed; it is random and made by the client before the call, because a
    counter does not fence once a claim was rolled back (two claims got the same number in a trial), and
    because an unknown outcome is settled by looking for it.
    """

    id: ObjectId
    queue: str
    task: str | None
    payload: Any  # as stored: decoded by the handler's schema
    attempt: int  # from 1
    max_attempts: int
    priority: int
    claim_id: bytes
    lease_s: float
    keep_s: float | None  # None: the store's default
    headers: Mapping[str, str] | None = None
    created_at: datetime | None = None

    @property
    def is_last_attempt(self) -> bool:
        """Say whether a failure now is final."""
        return self.attempt >= self.max_attempts


class Ask(msgspec.Struct, frozen=True):
    """What a claim call asks for.

    With `ids` it claims those of them that are ready (a wake named them), else the first `limit` by priority
    and `seq`. `only` restricts to handler names; None takes every task of the queue. `spare` of the `limit`
    are for waiting in the process (prefetch): a task with a single attempt is never among them, since a
    SIGKILL would burn the attempt of a task that never started.
    """

    queue: str
    limit: int
    claim_id: bytes
    lease_s: float
    worker: str
    only: tuple[str | None, ...] | None = None
    ids: tuple[ObjectId, ...] | None = None
    spare: int = 0
    durable: bool = False

    @property
    def slots(self) -> int:
        """How many of the claimed tasks can start at once."""
        return self.limit - self.spare


def claim_of(document: Mapping[str, Any], *, claim_id: bytes, lease_s: float, attempt: int) -> Claim:
    """Read a claim out of a stored task. `attempt` is the one the claim began."""
    return Claim(
        id=document["_id"],
        queue=document["queue"],
        task=document.get("task"),
        payload=document.get("payload"),
        attempt=attempt,
        max_attempts=document.get("max_attempts", 1),
        priority=document.get("priority", 0),
        claim_id=claim_id,
        lease_s=lease_s,
        keep_s=document.get("keep_s"),
        headers=document.get("headers"),
        created_at=document.get("created_at"),
    )
