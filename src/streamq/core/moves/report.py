"""Report: a holder says how far its task is, and keeps it for another `lease_s` from now, by the server's clock."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from streamq.core.document import StoredProgress, TaskDocument
from streamq.core.moves import extend
from streamq.core.report import Report


def update(report: Report, lease_s: float) -> list[dict[str, Any]]:
    """Build the update; its filter is the fence."""
    return [{"$set": {"progress": stored(report)}}, *extend.update(lease_s)]


def apply(document: TaskDocument, report: Report, lease_s: float, now: datetime) -> None:
    """Report on a document in memory."""
    extend.apply(document, lease_s, now)
    document["progress"] = stored_at(report, now)


def stored(report: Report) -> dict[str, Any]:
    """What is kept of a report, for a pipeline."""
    return {"value": {"$literal": report.value}, "note": {"$literal": report.note}, "at": "$$NOW"}


def stored_at(report: Report, now: datetime) -> StoredProgress:
    """The same in memory."""
    return StoredProgress(value=report.value, note=report.note, at=now)
