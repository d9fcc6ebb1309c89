"""Recur: the moves of a schedule's row. A program declares it, a scheduler fires its slots, a person switches it.

Every update is guarded by what its writer has read (`guard`): of many that act at once one succeeds, the others read
again. The values are worked out from the row and the server's time; nothing here evaluates what a user wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from bson import ObjectId

from streamq.core.document import TaskDocument
from streamq.core.moves.put import document_of, whole_ms
from streamq.core.new_task import NewTask
from streamq.core.recurrence import Due, due, next_slot
from streamq.core.schedule import CONTROL, SCHEDULE, Row, Schedule, row_of
from streamq.errors import OptionInvalid

Update = dict[str, dict[str, Any]]

GUARDED = ("spec", "enabled", "next_at", "missed", "overlap")


def guard(read: Mapping[str, Any]) -> dict[str, Any]:
    """Match the row as long as it says what was read."""
    said = {name: {"$eq": read[name]} if name in read else {"$exists": False} for name in GUARDED}
    return {"_id": read["_id"], **said}


# --- declare -------------------------------------------------------------------------------------------------------


def new_row(schedule: Schedule, by: str, now: datetime) -> dict[str, Any]:
    """Build the row of a schedule that is not stored: its first slot is the first one after now."""
    return {"_id": schedule.row_id, "kind": SCHEDULE, "task": schedule.name, "skipped": 0} | {
        "enabled": True,
        **_said(schedule, by, now),
        **_begin(schedule, now),
    }


def declare(read: Mapping[str, Any], schedule: Schedule, by: str, now: datetime) -> Update | None:
    """Build the update that makes a row say what is declared; None when it does already.

    What has the same slots as before keeps its next one, however long ago that was: it was missed, and the rule for
    missed slots decides. Other slots count from now. A disabled schedule stays disabled.
    """
    said = _said(schedule, by, now)
    same = all(read.get(name) == said[name] for name in ("spec", "missed", "overlap", "queue"))
    intact = _is_intact(read)
    if same and intact:
        return None
    fresh = {} if read.get("spec") == said["spec"] and intact else _begin(schedule, now)
    if read.get("enabled") is not True:
        fresh.pop("next_at", None)
    return {"$set": {**said, "enabled": read.get("enabled") is True, **fresh}}


def _said(schedule: Schedule, by: str, now: datetime) -> dict[str, Any]:
    recurrence = schedule.recurrence
    return {
        "queue": schedule.template.queue,
        "spec": recurrence.spec,
        "missed": recurrence.missed,
        "overlap": recurrence.overlap,
        "declared_by": by,
        "declared_at": whole_ms(now),
    }


def _begin(schedule: Schedule, now: datetime) -> dict[str, Any]:
    anchor_at = whole_ms(now)
    next_at = next_slot(schedule.recurrence, anchor_at, anchor_at)
    return {"anchor_at": anchor_at} | ({} if next_at is None else {"next_at": next_at})


def _is_intact(read: Mapping[str, Any]) -> bool:
    try:
        row = row_of(read)
    except OptionInvalid:
        return False
    return row.next_at is not None or not row.enabled


# --- fire ----------------------------------------------------------------------------------------------------------


class Shot(msgspec.Struct, frozen=True):
    """What firing a schedule writes: the tasks to insert, and the update of its row. `skipped` are the slots left out
    because the task of the one before had not ended."""

    tasks: tuple[NewTask, ...]
    skipped: tuple[datetime, ...]
    update: Update
    next_at: datetime | None

    def documents(self, now: datetime) -> list[TaskDocument]:
        """Return the tasks as they are stored."""
        return [document_of(one, now) for one in self.tasks]


def is_due(row: Row, now: datetime) -> bool:
    """Say whether a slot has come."""
    return row.enabled and row.next_at is not None and row.next_at <= now


def fire(row: Row, template: NewTask, by: str, now: datetime, *, busy: bool) -> Shot:
    """Decide what firing a row that is due writes. `busy`: overlapping is not allowed, and the task of the slot before
    has not ended. Insert and update belong in one transaction: one task for each slot."""
    assert row.next_at is not None
    decided: Due = due(row.recurrence, row.anchor_at, row.next_at, now)
    slots, skipped = ((), decided.slots) if busy else (decided.slots, ())
    tasks = tuple(msgspec.structs.replace(template, id=ObjectId(), slot_at=slot, fired_by=by) for slot in slots)
    fields: dict[str, Any] = {"last_slot_at": decided.last_slot_at, "fired_by": by, "fired_at": now}
    if tasks:
        fields["last_id"] = tasks[-1].id
    update: Update = {"$set": fields}
    if decided.next_at is None:
        update["$unset"] = {"next_at": ""}
    else:
        fields["next_at"] = decided.next_at
    if skipped:
        update["$inc"] = {"skipped": len(skipped)}
    return Shot(tasks, skipped, update, decided.next_at)


# --- switch --------------------------------------------------------------------------------------------------------


def switch(row: Row, enabled: bool, by: str, now: datetime) -> Update | None:
    """Build the update that disables or enables a row; None when it is so already. Enabled again, its next slot is
    the first one after now: slots that came while it was disabled were not missed."""
    if row.enabled == enabled:
        return None
    fields: dict[str, Any] = {"enabled": enabled, "switched_by": by, "switched_at": whole_ms(now)}
    next_at = next_slot(row.recurrence, row.anchor_at, now) if enabled else None
    if next_at is None:
        return {"$set": fields, "$unset": {"next_at": ""}}
    return {"$set": fields | {"next_at": next_at}}


# --- both stores ---------------------------------------------------------------------------------------------------


def apply(document: dict[str, Any], update: Update) -> None:
    """Write an update of this file on a row in memory."""
    document.update(update.get("$set", {}))
    for name in update.get("$unset", ()):
        document.pop(name, None)
    for name, count in update.get("$inc", {}).items():
        document[name] = document.get(name, 0) + count


def announce() -> Update:
    """Build the update of the control document that the stream tells schedulers of. A counter always changes."""
    return {"$set": {"kind": CONTROL}, "$inc": {"changes": 1}}
