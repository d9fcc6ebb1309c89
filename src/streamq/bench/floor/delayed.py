"""Delayed tasks as streamq stores them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any


def far_ahead() -> dict[str, Any]:
    """The fields of a task that is not due while a bench runs."""
    return {"status": "delayed", "due_at": datetime.now(UTC) + timedelta(days=1)}
