"""The slots of recurring handlers: each that has come is fired once, and none before its time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from streamq.core.new_task import NewTask
from streamq.core.schedule import PREFIX
from tests.simulation.plan import Plan

Wrong = list[tuple[str, str, str]]


class Slots:
    """Of one run. `wrong` is added to."""

    def __init__(self, plan: Plan, wrong: Wrong) -> None:
        self._recurs = plan.recurs
        self._wrong = wrong
        self._fired: set[tuple[str, datetime]] = set()

    def see(self, new: NewTask, now: datetime) -> None:
        """Note a task that is put for a slot."""
        assert new.task is not None
        assert new.slot_at is not None
        if (new.task, new.slot_at) in self._fired:
            self._wrong.append(("refired", str(new.id), f"the slot of {new.slot_at:%T} of {new.task} was fired before"))
        if new.slot_at > now:
            self._wrong.append(
                ("early", str(new.id), f"the slot of {new.slot_at:%T} of {new.task} is fired at {now:%T}")
            )
        self._fired.add((new.task, new.slot_at))

    def unfired(self, rows: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, datetime]]:
        """Yield the slots that have come, as the rows say, and were not fired, where none may be left out."""
        for recur in self._recurs:
            row = rows.get(PREFIX + recur.name)
            if row is None or "last_slot_at" not in row or recur.missed != "all" or not recur.overlap:
                continue
            slot = row["anchor_at"] + timedelta(seconds=recur.every_s)
            while slot <= row["last_slot_at"]:
                if (recur.name, slot) not in self._fired:
                    yield recur.name, slot
                slot += timedelta(seconds=recur.every_s)
