"""Planted bugs, which the checker must find: tests of the tests. The product knows nothing of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from bson import ObjectId

from streamq.core.document import RUNNING
from streamq.store import claiming, reporting, settling


def fence_by_status() -> None:
    """The fence asks whether the task is running, not under whose claim."""

    def fence(queue: str, claim_id: bytes, ids: Iterable[ObjectId]) -> dict[str, Any]:
        return {"_id": {"$in": list(ids)}, "queue": queue, "status": RUNNING}

    for module in (settling, claiming, reporting):
        module.fence = fence  # type: ignore[attr-defined]


MUTANTS: Final[Mapping[str, Callable[[], None]]] = {"fence_by_status": fence_by_status}


def become(names: Iterable[str]) -> None:
    """Plant the bugs of these names in this process."""
    for name in names:
        MUTANTS[name]()
