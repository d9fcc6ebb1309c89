"""Schedules in the real store beside those in memory: hypothesis declares, fires, switches and lets time pass.

Time as in `test_model`: the server's, plus what `time_passes` adds. Slots of `every_s` lie on grids of 1,370 and 2,740
seconds and time passes by whole thousands, so that no slot of a run comes within 40 s of a "now".

Those of `cron` lie on the clock's own: time passes by whole hours, or weeks, after which the same slots come again, and
the minute of each is a quarter of an hour from that of the run, in zones that are half an hour apart too. They have
no summer time (the tests of `core.recurrence` have): the two stores live in different seasons.

Ids of fired tasks differ; their slots are compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from streamq.core.claim import Ask
from streamq.core.document import TaskDocument
from streamq.core.new_task import NewTask
from streamq.core.options import Options
from streamq.core.recurrence import LATE_S, recurrence_of
from streamq.core.schedule import Schedule
from streamq.core.search import Search
from streamq.core.settlement import Settlement
from streamq.store.contract import Firing, Store
from streamq.store.memory import MemoryStore
from streamq.store.mongo import MongoStore

STEPS = 30
TOLERANCE_S = 20.0
STEP_S = 1_370
HOUR_S, WEEK_S = 3_600, 7 * 86_400
INSTANTS = ("anchor_at", "next_at", "last_slot_at", "declared_at", "switched_at", "fired_at")
ROW = "schedule:report"


Form = dict[str, Any]


def grids(minute: int) -> list[Form]:
    return [{"every_s": STEP_S}, {"every_s": STEP_S}, {"every_s": 2 * STEP_S}]


def hourly(minute: int) -> list[Form]:
    """For every hour of the day: these follow elapsed time."""
    often = f"{minute},{(minute + 30) % 60} * * * *"
    return [{"cron": f"{minute} * * * *"}, {"cron": often}, {"cron": often, "tz": "Asia/Kolkata"}]


def named_hours(minute: int) -> list[Form]:
    """At times on the wall."""
    return [
        {"cron": f"{minute} 8 * * *"},
        {"cron": f"{minute} 8,20 * * MON-FRI", "tz": "Asia/Kolkata"},
        {"cron": f"{minute} */12 * * SUN", "tz": "America/Phoenix"},
    ]


class Schedules(RuleBasedStateMachine):
    """Every rule does the same to both stores and compares what they answer."""

    real: MongoStore  # given by the subclass that a test makes
    step_s: int
    forms: list[Form]

    def __init__(self) -> None:
        super().__init__()
        self.offset = timedelta(0)
        self.memory = MemoryStore(lambda: self.real.now() + self.offset)
        self.schedule = _schedule(self.forms[0], "latest", True)
        self.fired: set[datetime] = set()  # of all schedules, as memory has them

    @initialize()
    def begin(self) -> None:
        self.real._tasks.quick.delete_many({})
        self.real._tasks.meta.delete_many({})
        self._declare()

    # --- rules ------------------------------------------------------------------------------------------------

    @rule(
        form=st.integers(0, 5),
        rule=st.sampled_from([("latest", True), ("latest", False), ("all", True), ("none", True), ("none", False)]),
    )
    def declare(self, form: int, rule: tuple[str, bool]) -> None:
        self.schedule = _schedule(self.forms[form % len(self.forms)], *rule)
        self._declare()

    def _declare(self) -> None:
        for store in self._both():
            store.declare([self.schedule], "w")

    @rule()
    def fire(self) -> None:
        now = self.memory.now()
        row = self.memory.meta[ROW]
        real, memory = (store.fire([self.schedule], "w") for store in self._both())
        self._compare_firings(real, memory)
        slots = [one.slot_at for one in memory.fired]
        assert all(slot is not None and slot <= now for slot in slots)
        assert self.fired.isdisjoint(slots), "a slot was fired twice"
        self.fired.update(slot for slot in slots if slot is not None)
        if slots and row["missed"] == "none":
            assert (now - slots[-1]).total_seconds() < LATE_S + TOLERANCE_S  # type: ignore[operator]
        assert len(slots) <= 1 or row["missed"] == "all"
        again = self.real.fire([self.schedule], "w")
        assert (again.fired, again.skipped) == ((), ())

    @rule(enabled=st.booleans())
    def switch(self, enabled: bool) -> None:
        for store in self._both():
            assert store.switch("report", enabled, "ann")

    @rule()
    def the_row_is_removed(self) -> None:
        self.real._tasks.meta.delete_one({"_id": ROW})
        self.memory.meta.pop(ROW)
        self._declare()

    @rule(count=st.integers(1, 3), delete=st.booleans())
    def tasks_end(self, count: int, delete: bool) -> None:
        for store in self._both():
            claims = store.claim(Ask("a", count, os.urandom(16), 86_400.0, "w", durable=True)).claims
            keep_s = 0.0 if delete else 100_000.0
            store.settle([Settlement(one.id, "a", one.claim_id, "succeed", keep_s=keep_s) for one in claims])

    @rule(steps=st.integers(1, 6))
    def time_passes(self, steps: int) -> None:
        self.offset += timedelta(seconds=self.step_s * steps)
        moved = {
            name: {"$cond": [{"$eq": [{"$type": f"${name}"}, "date"]}, {"$subtract": [f"${name}", ms]}, "$$REMOVE"]}
            for ms in [1_000 * self.step_s * steps]
            for name in INSTANTS
        }
        self.real._tasks.meta.update_many({}, [{"$set": moved}])
        self.real._tasks.quick.update_many(
            {"slot_at": {"$exists": True}},
            [{"$set": {"slot_at": {"$subtract": ["$slot_at", 1_000 * self.step_s * steps]}}}],
        )

    # --- comparing --------------------------------------------------------------------------------------------

    def _both(self) -> tuple[Store, Store]:
        return self.real, self.memory

    def _compare_firings(self, real: Firing, memory: Firing) -> None:
        assert real.refused == memory.refused == ()
        for one, other in zip(real.fired, memory.fired, strict=True):
            self._same("slot_at", one.slot_at, other.slot_at)
        for (_, one_slot), (_, other_slot) in zip(real.skipped, memory.skipped, strict=True):
            self._same("skipped", one_slot, other_slot)
        assert (real.next_s is None) == (memory.next_s is None)
        assert real.next_s is None or abs(real.next_s - memory.next_s) < TOLERANCE_S  # type: ignore[operator]

    @invariant()
    def the_rows_and_tasks_are_the_same(self) -> None:
        real = self.real._tasks.meta.find_one({"_id": ROW})
        memory = self.memory.meta.get(ROW)
        assert real is not None
        assert memory is not None
        self._compare({**real, "last_id": None}, {**memory, "last_id": None})
        assert ("next_at" in memory) == memory["enabled"]
        found, expected = (self._tasks(store) for store in self._both())
        for one, other in zip(found, expected, strict=True):
            assert one["status"] == other["status"]
            self._same("slot_at", one["slot_at"], other["slot_at"])

    @staticmethod
    def _tasks(store: Store) -> list[TaskDocument]:
        return sorted(store.find(Search(), limit=1_000), key=lambda one: (one["slot_at"], one["status"]))

    def _compare(self, real: dict[str, Any], memory: dict[str, Any]) -> None:
        assert real.keys() == memory.keys()
        for name, value in real.items():
            self._same(name, value, memory[name])

    def _same(self, name: str, real: Any, memory: Any) -> None:
        if isinstance(real, datetime):
            difference_s = ((real + self.offset) - memory).total_seconds()
            assert abs(difference_s) < TOLERANCE_S, f"{name} differs by {difference_s:g} s"
        else:
            assert real == memory, name


def _schedule(form: Form, missed: str, overlap: bool) -> Schedule:
    recurrence = recurrence_of(form.get("cron"), form.get("tz"), form.get("every_s"), missed, overlap)
    assert recurrence is not None
    return Schedule(recurrence, NewTask(ObjectId(), "a", "report", {}, Options(), 3))


@pytest.mark.parametrize(
    ("make", "unit_s", "examples"), [(grids, 1_000, 15), (hourly, HOUR_S, 8), (named_hours, WEEK_S, 8)]
)
def test_both_stores_fire_the_same_slots(
    uri: str, database: str, make: Callable[[int], list[Form]], unit_s: int, examples: int
) -> None:
    store = MongoStore.connect(uri, database)
    store.prepare()
    away = (store.now().minute + 15) % 60

    class Machine(Schedules):
        real = store
        step_s = unit_s
        forms = make(away)

    try:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=STEPS,
                deadline=None,
                phases=[Phase.explicit, Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        store.close()
