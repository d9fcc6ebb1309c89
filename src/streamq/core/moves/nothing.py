"""Nothing: a write that matches no document. With majority it waits, as every write does, until a majority has all that
the server has applied before it."""

from __future__ import annotations

from typing import Any, Final

NONE: Final[dict[str, Any]] = {"_id": {"$in": []}}
"""The filter."""


def update() -> dict[str, Any]:
    """Build the update."""
    return {"$unset": {"bell": ""}}
