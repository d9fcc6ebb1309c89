"""Free: a running task gives its slots back before it is deleted. Of a deletion others would not learn that the slots
are free, and what waits for them would wait for the backstop."""

from __future__ import annotations

from typing import Any, Final

from streamq.core.document import RUNNING, TaskDocument
from streamq.core.moves.settle import apply_freed, freed

SLOTS: Final = ("slot", "key_slot")

HAS_SLOT: Final[dict[str, Any]] = {"status": RUNNING, "$or": [{name: {"$exists": True}} for name in SLOTS]}


def update() -> list[dict[str, Any]]:
    """Build the update; its filter has `HAS_SLOT`."""
    return [{"$set": freed()}, {"$unset": list(SLOTS)}]


def has_slot(document: TaskDocument) -> bool:
    """`HAS_SLOT`, for a document in memory."""
    return document["status"] == RUNNING and not document.keys().isdisjoint(SLOTS)


def apply(document: TaskDocument) -> None:
    """Free the slots of a document in memory."""
    apply_freed(document)
    for name in SLOTS:
        document.pop(name, None)  # type: ignore[misc]
