"""Schedules in both stores: declared, fired, switched; and on the real server, what races and crashes leave of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from bson import ObjectId
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect

from streamq.core.document import TaskDocument
from streamq.core.new_task import NewTask
from streamq.core.options import Options
from streamq.core.recurrence import recurrence_of
from streamq.core.schedule import Schedule, ScheduleInfo
from streamq.core.search import Search
from streamq.errors import StoreError
from streamq.store.contract import Firing
from streamq.store.memory import MemoryStore
from streamq.store.mongo import MongoStore

if TYPE_CHECKING:
    from tests.conformance.conftest import Lab, MongoLab

HOUR = timedelta(hours=1)
ROW = "schedule:report"


def hourly(name: str = "report", **said: Any) -> Schedule:
    """A schedule an hour apart unless it is said otherwise."""
    given = {"cron": None, "tz": None, "every_s": None, "missed": None, "overlap": None}
    recurrence = recurrence_of(**(given | ({} if "cron" in said else {"every_s": 3600}) | said))
    assert recurrence is not None
    template = NewTask(ObjectId(), "q", name, {}, Options(), max_attempts=3, priority=4)
    return Schedule(recurrence, template)


def row(lab: Lab, name: str = "report") -> dict[str, Any]:
    """The row as it is stored."""
    if isinstance(lab.store, MemoryStore):
        return dict(lab.store.meta[f"schedule:{name}"])
    found = lab.store._tasks.meta.find_one({"_id": f"schedule:{name}"})  # type: ignore[attr-defined]
    assert found is not None
    return dict(found)


def edit(lab: Lab, **fields: Any) -> None:
    """Change the row by hand."""
    if isinstance(lab.store, MemoryStore):
        lab.store.meta[ROW].update(fields)
    else:
        lab.store._tasks.meta.update_one({"_id": ROW}, {"$set": fields})  # type: ignore[attr-defined]


def pass_time(lab: Lab, hours: float) -> None:
    """Let time pass for the schedule alone: its instants are moved back."""
    stored = row(lab)
    names = [name for name in ("anchor_at", "next_at", "last_slot_at") if name in stored]
    edit(lab, **{name: stored[name] - hours * HOUR for name in names})


def hours_back(hours: int) -> dict[str, Any]:
    """Move the instants of rows back, and a minute more."""
    ms = hours * 3_600_000 + 60_000
    return {"$set": {name: {"$subtract": [f"${name}", ms]} for name in ("anchor_at", "next_at")}}


def tasks(lab: Lab) -> list[TaskDocument]:
    return sorted(lab.store.find(Search(queue="q"), limit=100), key=lambda one: one["slot_at"])


def info(lab: Lab) -> ScheduleInfo:
    (found,) = lab.store.schedules()
    return found


def declared(lab: Lab, **said: Any) -> Schedule:
    schedule = hourly(**said)
    lab.store.declare([schedule], "w1")
    return schedule


def is_near(instant: datetime | None, other: datetime) -> bool:
    return instant is not None and abs(instant - other) < timedelta(minutes=5)


# --- declare --------------------------------------------------------------------------------------------------------


def test_declared_schedule_counts_from_now(lab: Lab) -> None:
    declared(lab, missed="none", overlap=False)
    found = info(lab)
    assert (found.name, found.queue, found.spec) == ("report", "q", "every 3600000 ms")
    assert (found.missed, found.overlap, found.enabled, found.skipped) == ("none", False, True, 0)
    assert (found.last_slot_at, row(lab)["declared_by"]) == (None, "w1")
    assert is_near(found.next_at, lab.store.now() + HOUR)


def test_unchanged_declaration_keeps_the_next_slot_however_long_ago(lab: Lab) -> None:
    schedule = declared(lab)
    pass_time(lab, 5)
    before = row(lab)
    lab.store.declare([schedule], "w2")
    assert row(lab) == before


def test_changed_slots_count_from_now(lab: Lab) -> None:
    declared(lab)
    pass_time(lab, 5)
    declared(lab, every_s=7200)
    assert is_near(info(lab).next_at, lab.store.now() + 2 * HOUR)
    declared(lab, cron="30 4 * * *", tz="Europe/Berlin")
    assert info(lab).spec == "cron 30 4 * * * Europe/Berlin"


def test_changed_rule_alone_keeps_the_next_slot(lab: Lab) -> None:
    declared(lab)
    pass_time(lab, 5)
    before = info(lab)
    declared(lab, missed="all")
    assert (info(lab).missed, info(lab).next_at) == ("all", before.next_at)


def test_declaring_mends_a_row_that_says_nothing(lab: Lab) -> None:
    declared(lab)
    edit(lab, spec="whenever", anchor_at="?")
    assert lab.store.schedules() == []
    declared(lab)
    assert is_near(info(lab).next_at, lab.store.now() + HOUR)


# --- fire -----------------------------------------------------------------------------------------------------------


def test_nothing_is_fired_before_its_slot(lab: Lab) -> None:
    firing = lab.store.fire([declared(lab)], "w1")
    assert (firing.fired, firing.skipped, firing.refused) == ((), (), ())
    assert firing.next_s == pytest.approx(3600, abs=300)


def test_slot_that_has_come_puts_its_task(lab: Lab) -> None:
    schedule = declared(lab)
    pass_time(lab, 1.01)
    slot = row(lab)["next_at"]
    firing = lab.store.fire([schedule], "w7")
    (task,) = tasks(lab)
    assert [one.id for one in firing.fired] == [task["_id"]]
    assert (task["task"], task["status"], task["priority"], task["max_attempts"]) == ("report", "ready", 4, 3)
    assert (task["slot_at"], task["fired_by"], task["payload"]) == (slot, "w7", {})
    (claim,) = lab.claim()
    assert claim.slot_at == slot
    assert (info(lab).last_slot_at, info(lab).next_at) == (slot, slot + HOUR)
    assert firing.next_s == pytest.approx(0.99 * 3600, abs=300)


def test_slot_is_fired_once_even_if_its_task_is_gone(lab: Lab) -> None:
    schedule = declared(lab)
    pass_time(lab, 1.01)
    lab.store.fire([schedule], "w1")
    (claim,) = lab.claim()
    lab.settle(claim, "succeed", keep_s=0.0)
    assert lab.store.fire([schedule], "w2").fired == ()
    assert tasks(lab) == []


def test_grid_does_not_drift_when_slots_fire_late(lab: Lab) -> None:
    schedule = declared(lab)
    for _ in range(3):
        pass_time(lab, 1.2)
        lab.store.fire([schedule], "w1")
    anchor_at = row(lab)["anchor_at"]
    assert {(info(lab).next_at - anchor_at) % HOUR} == {timedelta(0)}
    assert {one["slot_at"].microsecond for one in tasks(lab)} == {anchor_at.microsecond}


@pytest.mark.parametrize(("missed", "count"), [("latest", 1), ("all", 4), ("none", 0)])
def test_late_schedule_follows_its_rule(lab: Lab, missed: str, count: int) -> None:
    schedule = declared(lab, missed=missed)
    pass_time(lab, 4.5)
    last = row(lab)["anchor_at"] + 4 * HOUR
    assert len(lab.store.fire([schedule], "w1").fired) == count
    found = [one["slot_at"] for one in tasks(lab)]
    assert found == [last - n * HOUR for n in reversed(range(count))]
    assert (info(lab).last_slot_at, info(lab).next_at) == (last, last + HOUR)


def test_slot_is_skipped_while_the_task_before_has_not_ended(lab: Lab) -> None:
    schedule = declared(lab, overlap=False)
    pass_time(lab, 1.01)
    lab.store.fire([schedule], "w1")
    pass_time(lab, 1)
    firing = lab.store.fire([schedule], "w1")
    assert (firing.fired, firing.skipped) == ((), (("report", info(lab).last_slot_at),))
    assert info(lab).skipped == 1
    (claim,) = lab.claim()
    lab.settle(claim, "succeed")
    pass_time(lab, 1)
    assert len(lab.store.fire([schedule], "w1").fired) == 1
    assert info(lab).skipped == 1


def test_overlapping_slots_fire_where_they_may(lab: Lab) -> None:
    schedule = declared(lab)
    for _ in range(2):
        pass_time(lab, 1.01)
        lab.store.fire([schedule], "w1")
    assert len(tasks(lab)) == 2


def test_only_what_the_caller_declares_is_fired(lab: Lab) -> None:
    declared(lab)
    pass_time(lab, 1.01)
    assert lab.store.fire([hourly("other")], "w1").fired == ()
    assert tasks(lab) == []


def test_the_stored_slots_decide_when_versions_differ(lab: Lab) -> None:
    old = declared(lab)
    declared(lab, every_s=7200)
    pass_time(lab, 1.01)
    assert lab.store.fire([old], "w1").fired == ()


def test_row_that_was_removed_is_declared_anew(lab: Lab) -> None:
    schedule = hourly()
    lab.store.fire([schedule], "w1")
    assert is_near(info(lab).next_at, lab.store.now() + HOUR)


def test_row_that_says_nothing_is_named_and_holds_up_no_other(lab: Lab) -> None:
    broken, sound = declared(lab), hourly("another")
    lab.store.declare([sound], "w1")
    edit(lab, spec="whenever")
    firing = lab.store.fire([broken, sound], "w1")
    assert [one.id for one in firing.refused] == [ROW]
    assert firing.next_s == pytest.approx(3600, abs=300)


# --- switch ---------------------------------------------------------------------------------------------------------


def test_disabled_schedule_fires_nothing_and_stays_disabled(lab: Lab) -> None:
    schedule = declared(lab)
    assert lab.store.switch("report", False, "ann")
    lab.store.declare([schedule], "w2")
    declared(lab, every_s=7200)
    assert (info(lab).enabled, info(lab).next_at) == (False, None)
    pass_time(lab, 5)
    firing = lab.store.fire([schedule], "w1")
    assert (firing.fired, firing.next_s, row(lab)["switched_by"]) == ((), None, "ann")


def test_enabled_again_it_counts_from_now_without_a_flood(lab: Lab) -> None:
    schedule = declared(lab, missed="all")
    lab.store.switch("report", False, "ann")
    pass_time(lab, 4.5)
    assert lab.store.switch("report", True, "ann")
    assert lab.store.fire([schedule], "w1").fired == ()
    assert is_near(info(lab).next_at, lab.store.now() + HOUR / 2)


def test_switching_what_is_not_stored_says_so(lab: Lab) -> None:
    assert not lab.store.switch("report", False, "ann")


def test_switching_again_changes_nothing(lab: Lab) -> None:
    declared(lab)
    before = row(lab)
    assert lab.store.switch("report", True, "bob")
    assert row(lab) == before


@pytest.mark.parametrize("how", ["declare", "enable"])
def test_schedulers_are_told_when_a_slot_may_come_sooner(lab: Lab, how: str) -> None:
    if how == "enable":
        declared(lab)
        lab.store.switch("report", False, "ann")
    ear = lab.hear(timers=True)
    deaf = lab.hear("q")
    if how == "enable":
        lab.store.switch("report", True, "ann")
    else:
        declared(lab)
    assert ear.next().kind == "schedule"
    assert deaf.rest() == []


def test_control_document_is_no_task(lab: Lab) -> None:
    declared(lab)
    assert (lab.store.counts(), lab.store.find(Search(), limit=5), lab.claim()) == ({}, [], [])


# --- the real server: races and crashes -----------------------------------------------------------------------------


def test_racing_schedulers_fire_each_slot_once(mongo: MongoLab, uri: str, database: str) -> None:
    schedules = [hourly(f"report{n}", missed="all") for n in range(5)]
    mongo.store.declare(schedules, "w")
    mongo.mongo._tasks.meta.update_many({}, [hours_back(3)])
    begin = threading.Barrier(4)
    firings: list[list[Firing]] = [[] for _ in range(4)]

    def race(store: MongoStore, mine: list[Firing]) -> None:
        begin.wait()
        while not mine or mine[-1].next_s is None or mine[-1].next_s < 1:
            mine.append(store.fire(schedules, "w"))

    with ExitStack() as stack:
        stores = [MongoStore.connect(uri, database) for _ in range(4)]
        for store in stores:
            stack.callback(store.close)
        threads = [threading.Thread(target=race, args=one) for one in zip(stores, firings, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    fired = [(one.task, one.slot_at) for mine in firings for firing in mine for one in firing.fired]
    assert len(fired) == len(set(fired)) == 15
    assert sorted((one["task"], one["slot_at"]) for one in tasks(mongo)) == sorted(fired)


@contextmanager
def failing(mongo: MongoLab, collection: str, method: str) -> Iterator[None]:
    """Let the next call of a method on a collection raise instead, once."""
    real = getattr(Collection, method)
    left = [None]

    def instead(self: Collection[Any], *args: Any, **more: Any) -> Any:
        if self.name == collection and more.get("session") is not None and left:
            left.pop()
            raise AutoReconnect("connection closed")
        return real(self, *args, **more)

    with mock.patch.object(Collection, method, instead):
        yield
    assert not left


@pytest.mark.parametrize(("collection", "method"), [("tasks", "insert_many"), ("tasks.meta", "update_one")])
def test_crash_between_insert_and_advance_loses_no_slot_and_doubles_none(
    mongo: MongoLab, collection: str, method: str
) -> None:
    schedule = declared(mongo)
    pass_time(mongo, 1.01)
    before = row(mongo)
    with failing(mongo, collection, method), pytest.raises(StoreError):
        mongo.store.fire([schedule], "w1")
    assert (tasks(mongo), row(mongo)) == ([], before)
    assert len(mongo.store.fire([schedule], "w1").fired) == 1
    assert len(tasks(mongo)) == 1


@pytest.mark.parametrize("commits", [False, True])
def test_commit_without_an_answer_loses_no_slot_and_doubles_none(
    mongo: MongoLab, uri: str, database: str, commits: bool
) -> None:
    schedule = declared(mongo)
    pass_time(mongo, 1.01)
    real = ClientSession.commit_transaction

    def instead(session: ClientSession) -> None:
        if commits:
            real(session)
        raise AutoReconnect("connection closed")

    with mock.patch.object(ClientSession, "commit_transaction", instead), pytest.raises(StoreError):
        mongo.store.fire([schedule], "w1")
    assert len(mongo.store.fire([schedule], "w2").fired) == (0 if commits else 1)
    assert len(tasks(mongo)) == 1


def test_scheduler_that_dies_before_the_advance_holds_nobody_up(mongo: MongoLab, uri: str, database: str) -> None:
    """Its transaction stays open until the server ends it: another fires the slot at once all the same."""
    schedule = declared(mongo)
    pass_time(mongo, 1.01)
    real = Collection.update_one
    by_another: list[Firing] = []

    def instead(self: Collection[Any], *args: Any, **more: Any) -> Any:
        if more.get("session") is not None and not by_another:
            by_another.append(Firing((), (), None))
            by_another[0] = other.fire([schedule], "w2")
        return real(self, *args, **more)

    other = MongoStore.connect(uri, database)
    with mock.patch.object(Collection, "update_one", instead):
        firing = mongo.store.fire([schedule], "w1")
    other.close()
    assert (len(by_another[0].fired), firing.fired) == (1, ())
    assert firing.refused == ()
    assert firing.next_s == pytest.approx(0.05, abs=0.05)  # it looks again soon
    assert [one["fired_by"] for one in tasks(mongo)] == ["w2"]


def test_disabling_wins_over_a_slot_that_is_being_fired(mongo: MongoLab) -> None:
    schedule = declared(mongo)
    pass_time(mongo, 1.01)
    real = Collection.insert_many

    def instead(self: Collection[Any], *args: Any, **more: Any) -> Any:
        done = real(self, *args, **more)
        mongo.store.switch("report", False, "ann")
        return done

    with mock.patch.object(Collection, "insert_many", instead):
        assert mongo.store.fire([schedule], "w1").fired == ()
    assert (tasks(mongo), info(mongo).enabled) == ([], False)


def test_slot_that_the_server_refuses_is_named_and_holds_up_no_other(mongo: MongoLab) -> None:
    schedules = [hourly("bad"), declared(mongo)]
    mongo.store.declare(schedules, "w1")
    mongo.mongo._tasks.meta.update_many({}, [hours_back(1)])
    mongo.database.command({"collMod": "tasks", "validator": {"task": {"$ne": "bad"}}})
    firing = mongo.store.fire(schedules, "w1")
    assert [one.id for one in firing.refused] == ["schedule:bad"]
    assert "validation" in firing.refused[0].said
    assert [one["task"] for one in tasks(mongo)] == ["report"]
    mongo.database.command({"collMod": "tasks", "validator": {}})
    assert len(mongo.store.fire(schedules, "w1").fired) == 1


def test_looking_at_schedules_that_are_not_due_is_one_trip(mongo: MongoLab) -> None:
    schedules = [declared(mongo), hourly("another")]
    mongo.store.declare(schedules, "w1")
    with mock.patch.object(Collection, "aggregate", autospec=True, side_effect=Collection.aggregate) as asked:
        mongo.store.fire(schedules, "w1")
        assert asked.call_count == 1
