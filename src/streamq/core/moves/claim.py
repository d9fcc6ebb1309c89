"""Claim: a ready task becomes running in the hands of one holder. The attempt is counted here, so that a task
which kills its process is bounded."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from streamq.core.claim import Ask
from streamq.core.document import READY, TaskDocument
from streamq.core.moves.fence import after, after_ms
from streamq.core.transitions import next_status


def guard(ask: Ask, attempt: int) -> dict[str, Any]:
    """Match what may be claimed of documents read a moment ago with `attempt` attempts behind them.

    The attempt is guarded because the task may have been claimed and put back by others since it was read:
    the holder would then count its attempts wrongly.
    """
    return {"status": READY, "queue": ask.queue, "attempt": attempt}


def revision_guard(revision: float) -> dict[str, Any]:
    """Match tasks as they were read: a later put with the unique key may have replaced the payload since, and the
    holder would run the old one. What has no key has no revision, and 0 matches it too."""
    return {"revision": revision if revision else {"$in": [None, 0]}}


def update(ask: Ask) -> list[dict[str, Any]]:
    """Build the update that claims."""
    fields = {
        "status": next_status(READY, "claim"),
        "claim_id": ask.claim_id,
        "lease_until": _lease_until(ask),
        "attempt": {"$add": ["$attempt", 1]},
        "worker": {"$literal": ask.worker},
        "started_at": "$$NOW",
    }
    return [{"$set": fields}, {"$unset": "ready_in"}]


def _lease_until(ask: Ask) -> dict[str, Any]:
    if not ask.leases:
        return after_ms(ask.lease_s)
    own = [
        {"case": {"$eq": ["$task", {"$literal": name}]}, "then": after_ms(lease_s)}
        for name, lease_s in ask.leases.items()
    ]
    return {"$switch": {"branches": own, "default": after_ms(ask.lease_s)}}


def is_ready(document: TaskDocument, ask: Ask) -> bool:
    """`queries.ready`, for a document in memory."""
    return (
        document["status"] == READY
        and document["queue"] == ask.queue
        and (ask.only is None or document["task"] in ask.only)
        and (ask.ids is None or document["_id"] in ask.ids)
        and (ask.slots > 0 or document["max_attempts"] > 1)
    )


def apply(document: TaskDocument, ask: Ask, now: datetime) -> None:
    """Claim a document in memory."""
    document["status"] = next_status(document["status"], "claim")
    document["claim_id"] = ask.claim_id
    document["lease_until"] = after(now, ask.lease_of(document["task"]))
    document["attempt"] += 1
    document["worker"] = ask.worker
    document["started_at"] = now
    document.pop("ready_in", None)
