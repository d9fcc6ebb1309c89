"""A schedule: what is declared of a recurring task, and the row that is stored of it.

The row lives in the meta collection (it is no task, and nothing of it belongs on the stream): `_id` is
"schedule:<handler>", `spec`, `missed` and `overlap` say when it recurs, `next_at` is the slot that fires next (absent
while it is disabled), `last_slot_at` the newest slot that has come, `last_id` the newest task that was put for one.
Everything that decides is in the row, so that workers of two versions of the program, side by side, agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from bson import ObjectId

from streamq.core.new_task import NewTask
from streamq.core.recurrence import Missed, Recurrence, recurrence_of_text
from streamq.errors import OptionInvalid

SCHEDULE: Final = "schedule"
PREFIX: Final = "schedule:"

CONTROL_ID: Final = "control:schedules"
"""The document in the tasks collection that is written when a schedule may fire sooner than schedulers know: the meta
collection is not on the stream."""

CONTROL: Final = "control"


class Schedule(msgspec.Struct, frozen=True):
    """What a program declares: when, and the task that is put for each slot (its id is made then)."""

    recurrence: Recurrence
    template: NewTask

    @property
    def name(self) -> str:
        """The handler's name."""
        assert self.template.task is not None
        return self.template.task

    @property
    def row_id(self) -> str:
        """The `_id` of its row."""
        return PREFIX + self.name


class Row(msgspec.Struct, frozen=True):
    """A stored schedule, read and checked."""

    id: str
    recurrence: Recurrence
    anchor_at: datetime
    enabled: bool
    next_at: datetime | None
    last_id: ObjectId | None


class ScheduleInfo(msgspec.Struct, frozen=True):
    """A schedule as it stands: what `app.schedules()` lists.

    `spec` is "cron <expression> <zone>" or "every <n> ms". `next_at` is None while it is disabled. `last_slot_at` is
    the newest slot that has come, fired or not. `skipped` counts the slots left out because the task of the slot
    before had not ended (`overlap=False`).
    """

    name: str
    queue: str
    spec: str
    missed: Missed
    overlap: bool
    enabled: bool
    next_at: datetime | None
    last_slot_at: datetime | None
    skipped: int


def row_of(document: Mapping[str, Any]) -> Row:
    """Read a row. Raises `OptionInvalid` for one that another version, or a person, wrote so that it says nothing."""
    recurrence = recurrence_of_text(document.get("spec"), document.get("missed"), document.get("overlap"))
    anchor_at = document.get("anchor_at")
    if not isinstance(anchor_at, datetime):
        raise OptionInvalid("anchor_at", anchor_at, "a date")
    last_id = document.get("last_id")
    return Row(
        id=document["_id"],
        recurrence=recurrence,
        anchor_at=anchor_at,
        enabled=document.get("enabled") is True,
        next_at=_instant(document, "next_at"),
        last_id=last_id if isinstance(last_id, ObjectId) else None,
    )


def info_of(document: Mapping[str, Any]) -> ScheduleInfo | None:
    """Read a row for people; None for one that cannot be read."""
    try:
        row = row_of(document)
    except OptionInvalid:
        return None
    skipped = document.get("skipped")
    return ScheduleInfo(
        name=row.id.removeprefix(PREFIX),
        queue=str(document.get("queue", "")),
        spec=row.recurrence.spec,
        missed=row.recurrence.missed,
        overlap=row.recurrence.overlap,
        enabled=row.enabled,
        next_at=row.next_at,
        last_slot_at=_instant(document, "last_slot_at"),
        skipped=skipped if isinstance(skipped, int) else 0,
    )


def _instant(document: Mapping[str, Any], name: str) -> datetime | None:
    value = document.get(name)
    return value if isinstance(value, datetime) else None
