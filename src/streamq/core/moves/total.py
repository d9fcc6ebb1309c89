"""The total time of a task: what its attempts and the waits between them may take together, from its first claim.

`total_until` is written by the first claim, by the server's clock. No lease reaches past it, so a holder that died is
found by it too. Here: the expressions that the moves share, and their twins.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from streamq.core.document import TaskDocument
from streamq.core.moves.fence import after, seconds_of

HAS_END: Final[dict[str, Any]] = {"$eq": [{"$type": "$total_until"}, "date"]}

IS_OVER: Final[dict[str, Any]] = {"$and": [HAS_END, {"$lte": ["$total_until", "$$NOW"]}]}
"""Whether the total time has run out, by the server's clock."""

BEGUN: Final[dict[str, Any]] = {
    "total_until": {
        "$cond": [
            HAS_END,
            "$total_until",
            # Null, which becomes absent, where the seconds are none.
            {"$ifNull": [{"$add": ["$$NOW", {"$multiply": [seconds_of("total_timeout_s", None), 1000]}]}, "$$REMOVE"]},
        ]
    }
}
"""What a claim sets before all else."""


def capped(lease_until: dict[str, Any]) -> dict[str, Any]:
    """Let a lease end with the total time, if that is sooner."""
    return {"$cond": [HAS_END, {"$min": [lease_until, "$total_until"]}, lease_until]}


def begin(document: TaskDocument, now: datetime) -> None:
    """`BEGUN`, on a document in memory."""
    if "total_timeout_s" in document and "total_until" not in document:
        document["total_until"] = after(now, document["total_timeout_s"])


def cap(document: TaskDocument, lease_until: datetime) -> datetime:
    """`capped`, for a document in memory."""
    return min(lease_until, document.get("total_until", lease_until))


def is_over(document: TaskDocument, now: datetime) -> bool:
    """`IS_OVER`, for a document in memory."""
    return "total_until" in document and document["total_until"] <= now
