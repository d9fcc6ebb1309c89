"""What the database holds at the end, as far as the checker cares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from streamq.core.document import TERMINAL
from tests.chaos.event import ClaimId, TaskId

WHOLE: Final = frozenset({"queue", "task", "status", "payload", "attempt", "max_attempts", "priority", "seq"})
"""Fields without which a task is not one."""


class Stored(msgspec.Struct, frozen=True):
    """One task."""

    status: str
    settled_by: ClaimId | None = None
    mark: TaskId = ""  # the id that its payload says it has
    missing: tuple[str, ...] = ()  # fields that it should have
    once: bool = False  # that it has one attempt, as its payload says
    fails: bool = False  # that its first attempt is to fail

    @property
    def is_terminal(self) -> bool:
        """Say whether it has ended."""
        return self.status in TERMINAL


def stored_of(document: Mapping[str, Any]) -> Stored:
    """Read one document."""
    payload = document.get("payload")
    asked = payload if isinstance(payload, Mapping) else {}
    settled_by = document.get("settled_by")
    return Stored(
        status=str(document.get("status")),
        settled_by=None if settled_by is None else bytes(settled_by).hex(),
        mark=str(asked.get("mark", payload)),
        missing=tuple(sorted(WHOLE - document.keys())),
        once=bool(asked.get("once")),
        fails=bool(asked.get("fails")),
    )


def look(database: Database[dict[str, Any]]) -> dict[TaskId, Stored]:
    """Read all tasks that a majority has, from the primary."""
    tasks = database.get_collection(
        "tasks", read_concern=ReadConcern("majority"), read_preference=ReadPreference.PRIMARY
    )
    found: Iterable[dict[str, Any]] = tasks.find({"kind": {"$exists": False}})
    return {str(document["_id"]): stored_of(document) for document in found}
