"""Schedules in the real store beside those in memory: hypothesis declares, fires, switches and lets time pass.

Time as in `test_model`: the server's, plus what `time_passes` adds. Slots lie on grids of 1,370 and 2,740 seconds and
time passes by whole thousands, so that no slot of a run comes within 40 s of a "now". Ids of fired tasks differ; their
slots are compared.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

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

EXAMPLES, STEPS = 15, 30
TOLERANCE_S = 20.0
STEP_S = 1_370
INSTANTS = ("anchor_at", "next_at", "last_slot_at", "declared_at", "switched_at", "fired_at")
ROW = "schedule:report"


class Schedules(RuleBasedStateMachine):
    """Every rule does the same to both stores and compares what they answer."""

    real: MongoStore  # given by the subclass that a test makes

    def __init__(self) -> None:
        super().__init__()
        self.offset = timedelta(0)
        self.memory = MemoryStore(lambda: self.real.now() + self.offset)
        self.schedule = _schedule(STEP_S, "latest", True)
        self.fired: set[datetime] = set()  # of all schedules, as memory has them

    @initialize()
    def begin(self) -> None:
        self.real._tasks.quick.delete_many({})
        self.real._tasks.meta.delete_many({})
        self._declare()

    # --- rules ------------------------------------------------------------------------------------------------

    @rule(
        every_s=st.sampled_from([STEP_S, STEP_S, 2 * STEP_S]),
        rule=st.sampled_from([("latest", True), ("latest", False), ("all", True), ("none", True), ("none", False)]),
    )
    def declare(self, every_s: int, rule: tuple[str, bool]) -> None:
        self.schedule = _schedule(every_s, *rule)
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

    @rule(thousands=st.integers(1, 6))
    def time_passes(self, thousands: int) -> None:
        self.offset += timedelta(seconds=1_000 * thousands)
        moved = {
            name: {"$cond": [{"$eq": [{"$type": f"${name}"}, "date"]}, {"$subtract": [f"${name}", ms]}, "$$REMOVE"]}
            for ms in [1_000_000 * thousands]
            for name in INSTANTS
        }
        self.real._tasks.meta.update_many({}, [{"$set": moved}])
        self.real._tasks.quick.update_many(
            {"slot_at": {"$exists": True}}, [{"$set": {"slot_at": {"$subtract": ["$slot_at", 1_000_000 * thousands]}}}]
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


def _schedule(every_s: int, missed: str, overlap: bool) -> Schedule:
    recurrence = recurrence_of(None, None, every_s, missed, overlap)
    assert recurrence is not None
    return Schedule(recurrence, NewTask(ObjectId(), "a", "report", {}, Options(), 3))


def test_both_stores_fire_the_same_slots(uri: str, database: str) -> None:
    store = MongoStore.connect(uri, database)
    store.prepare()

    class Machine(Schedules):
        real = store

    try:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                phases=[Phase.explicit, Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        store.close()
