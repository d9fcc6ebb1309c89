"""Extend: a holder keeps its tasks for another `lease_s` from now, by the server's clock, but no longer than the
task's total time."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from streamq.core.document import TaskDocument
from streamq.core.moves import total
from streamq.core.moves.fence import after, after_ms
from streamq.core.transitions import next_status


def update(lease_s: float) -> list[dict[str, Any]]:
    """Build the update; its filter is the fence."""
    return [{"$set": {"lease_until": total.capped(after_ms(lease_s))}}]


def apply(document: TaskDocument, lease_s: float, now: datetime) -> None:
    """Extend a document in memory."""
    document["status"] = next_status(document["status"], "extend")
    document["lease_until"] = total.cap(document, after(now, lease_s))
