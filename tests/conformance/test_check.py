"""The check and the workers list, on the real server."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from pymongo import MongoClient

from streamq.core.checkup import Checkup, Finding
from streamq.core.invariants import INVARIANTS
from streamq.core.member import Member
from streamq.store import checking
from streamq.store.mongo import MongoStore
from tests.access import allowed

if TYPE_CHECKING:
    from tests.conformance.conftest import MongoLab

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FAR = datetime(9999, 1, 1, tzinfo=UTC)


def of(checkup: Checkup, what: str) -> Finding:
    (found,) = [one for one in checkup.findings if one.what == what]
    return found


def whats(checkup: Checkup) -> list[str]:
    """All findings but those of a test's server: nobody works there."""
    return [one.what for one in allowed(checkup) if one.what != "queues with ready tasks have a worker"]


def settled(mongo: MongoLab) -> ObjectId:
    claim = mongo.claimed()
    mongo.settle(claim, "succeed")
    return claim.id


@pytest.mark.open("asks how far the oplog reaches back, which no role may")
def test_a_sound_queue_has_no_findings(mongo: MongoLab) -> None:
    mongo.put()
    mongo.put(options={"delay_s": 60, "unique": "a"})
    mongo.claimed()
    settled(mongo)
    checkup = mongo.mongo.check()
    assert whats(checkup) == []
    assert checkup.valid
    assert (checkup.server_version, checkup.replica_set) == ("6.0.5", "rs0")
    assert checkup.oplog_hours is not None
    assert checkup.clock_ahead_s is not None
    assert abs(checkup.clock_ahead_s) < 5


@pytest.mark.open("asks how far the oplog reaches back, which no role may")
def test_an_oplog_that_is_full_and_reaches_back_little_is_found(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "OPLOG_HOURS", 1_000_000.0)
    monkeypatch.setattr(checking, "FULL", 0.0)
    finding = of(mongo.mongo.check(), "the oplog reaches back an hour")
    assert (finding.severity, mongo.mongo.check().valid) == ("warning", True)


@pytest.mark.open("asks how far the oplog reaches back, which no role may")
def test_an_oplog_that_has_dropped_nothing_yet_is_no_finding(mongo: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "OPLOG_HOURS", 1_000_000.0)
    monkeypatch.setattr(checking, "FULL", 1e9)
    assert whats(mongo.mongo.check()) == []


def test_a_collection_that_is_not_there_yet_is_usable_and_is_not_made(uri: str, empty_database: str) -> None:
    store = MongoStore.connect(uri, empty_database)
    checkup = store.check(repair=True)
    assert (checkup.valid, whats(checkup)) == (True, ["the collection is there"])
    assert store._database.list_collection_names() == []
    store.close()


# --- the tasks -----------------------------------------------------------------------------------------------------

BROKEN: list[tuple[str, str, dict[str, Any]]] = [
    ("a task has a status that there is", "ready", {"$set": {"status": "lost"}}),
    ("a task has a status that there is", "ready", {"$unset": {"status": ""}}),
    ("a running task has a claim and a lease", "running", {"$unset": {"claim_id": ""}}),
    ("a running task has a claim and a lease", "running", {"$unset": {"lease_until": ""}}),
    ("a running task has a claim and a lease", "running", {"$set": {"lease_until": "soon"}}),
    ("a delayed task has an instant at which it is due", "delayed", {"$unset": {"due_at": ""}}),
    ("a ready task has its place in the queue", "ready", {"$unset": {"seq": "", "priority": ""}}),
    ("a ready task can be claimed", "ready", {"$set": {"queue": ["q"]}}),
    ("a ready task can be claimed", "ready", {"$unset": {"max_attempts": ""}}),
    ("a ready task can be claimed", "ready", {"$set": {"attempt": -1}}),
    ("a ready task can be claimed", "ready", {"$set": {"attempt": float("-inf")}}),
    ("a ready task names its handler by a text", "ready", {"$set": {"task": ["a"]}}),
    ("a ready task names its handler by a text", "ready", {"$set": {"task": 1}}),
    ("a task has been tried at most as often as it may be", "ready", {"$set": {"attempt": 9}}),
    ("a task that has ended holds nothing", "succeeded", {"$set": {"unique_lock": b"u1:x"}}),
    ("a task that has ended holds nothing", "succeeded", {"$set": {"claim_id": b"x"}}),
    ("a task that waits is held by nobody", "ready", {"$set": {"slot": 3}}),
    ("a task that waits is held by nobody", "delayed", {"$set": {"claim_id": b"x"}}),
    ("a blocked task waits for something", "blocked", {"$set": {"blocked_by": []}}),
    ("a blocked task waits for something", "blocked", {"$set": {"blocked_by": ["a"]}}),
    ("a blocked task waits for something", "blocked", {"$unset": {"blocked_by": ""}}),
    ("a blocked task waits for something", "grouped", {"$unset": {"group": ""}}),
    ("a blocked task waits for something", "grouped", {"$set": {"blocked_by": []}}),
    ("a task of a group runs in its turn", "grouped", {"$set": {"status": "ready"}}),
    ("a task that has not ended holds its unique key", "unique", {"$unset": {"unique_lock": ""}}),
    ("a task that has ended says when", "succeeded", {"$unset": {"finished_at": ""}}),
    ("a task that has ended is removed some day", "succeeded", {"$unset": {"remove_at": ""}}),
    ("a task that was not started in time expires", "ready", {"$set": {"expires_at": LONG_AGO}}),
    ("who waits for a task learns of its end", "parent", {"$set": {"finished_at": LONG_AGO}}),
    ("an ended lease is taken back", "running", {"$set": {"lease_until": LONG_AGO}}),
    ("a lease ends within a week", "running", {"$set": {"lease_until": FAR}}),
    ("a due task is made ready", "delayed", {"$set": {"due_at": LONG_AGO}}),
]


def broken(mongo: MongoLab, status: str, update: dict[str, Any]) -> ObjectId:
    """Put a sound task in `status` and break it."""
    match status:
        case "running":
            id = mongo.claimed().id
        case "succeeded":
            id = settled(mongo)
        case "delayed":
            id = mongo.put(options={"delay_s": 3_600})
        case "blocked":
            id = mongo.put(options={"after": [mongo.put("parents")]})
        case "grouped":
            mongo.put(options={"group": "g"})
            mongo.store.tick()
            id = mongo.put(options={"group": "g"})
        case "unique":
            id = mongo.put(options={"unique": "a"})
        case "parent":
            mongo.put(options={"after": [id := mongo.put("parents")]})
            (claim,) = mongo.claim(queue="parents")
            mongo.settle(claim, "succeed")
        case _:
            id = mongo.put()
    mongo.edit(id, update)
    return id


@pytest.mark.parametrize(("what", "status", "update"), BROKEN)
def test_a_broken_task_is_found_and_named_and_left_as_it_is(
    mongo: MongoLab, what: str, status: str, update: dict[str, Any]
) -> None:
    broken_id, sound = broken(mongo, status, update), mongo.put()
    before = mongo.stored(broken_id)
    checkup = mongo.mongo.check()
    found = of(checkup, what)
    assert (found.ids, found.count, found.repaired) == ((broken_id,), 1, "")
    assert found.advice
    assert checkup.valid == (found.severity != "error")
    assert mongo.stored(broken_id) == before
    assert sound not in {id for one in checkup.findings for id in one.ids}


@pytest.mark.parametrize(("what", "status", "update"), BROKEN)
def test_a_repair_mends_what_is_safe_says_so_and_leaves_the_rest(
    mongo: MongoLab, what: str, status: str, update: dict[str, Any]
) -> None:
    id = broken(mongo, status, update)
    before = mongo.stored(id)
    found = of(mongo.mongo.check(repair=True), what)
    is_safe = next(one.mend for one in INVARIANTS if one.what == what) is not None
    assert bool(found.repaired) == is_safe
    again = whats(mongo.mongo.check())
    if is_safe:
        assert what not in again
    else:
        assert what in again
        assert mongo.stored(id) == before


def test_a_task_that_nobody_held_is_taken_back_as_any_other(mongo: MongoLab) -> None:
    again, last = mongo.claimed(), mongo.claimed(max_attempts=1)
    for claim in (again, last):
        mongo.edit(claim.id, {"$unset": {"claim_id": "", "lease_until": ""}})
    found = of(mongo.mongo.check(repair=True), "a running task has a claim and a lease")
    assert found.repaired == "ended the leases of 2, and took them back"
    assert [mongo.stored(claim.id)["status"] for claim in (again, last)] == ["ready", "failed"]
    assert mongo.settle(again, "succeed") == "lost"


def test_a_task_without_a_place_gets_the_last_one(mongo: MongoLab) -> None:
    first = mongo.put(payload=1)
    second = mongo.put(payload=2)
    mongo.edit(first, {"$unset": {"seq": "", "priority": ""}})
    mongo.mongo.check(repair=True)
    assert [claim.id for claim in mongo.claim()] == [second, first]


def test_a_task_that_has_outlived_its_lifetime_is_found_and_removed_by_a_repair(mongo: MongoLab) -> None:
    what = "a task whose lifetime is over is removed"
    id = broken(mongo, "running", {"$set": {"lifetime_until": LONG_AGO}})
    assert of(mongo.mongo.check(), what).ids == (id,)
    assert of(mongo.mongo.check(repair=True), what).repaired == "moved what was due"
    assert mongo.store.get(id) is None


def test_a_repair_never_touches_what_is_sound(mongo: MongoLab) -> None:
    ids = [mongo.put(), mongo.put(options={"delay_s": 60, "unique": "a"}), mongo.claimed("w").id, settled(mongo)]
    before = [mongo.stored(id) for id in ids]
    mongo.mongo.check(repair=True)
    assert [mongo.stored(id) for id in ids] == before


def test_a_finding_names_some_and_counts_all(mongo: MongoLab) -> None:
    ids = [mongo.put() for _ in range(25)]
    mongo.mongo._tasks.durable.update_many({}, {"$set": {"status": "lost"}})
    found = of(mongo.mongo.check(), "a task has a status that there is")
    assert (len(found.ids), found.count) == (20, len(ids))


# --- the server and the collection ---------------------------------------------------------------------------------


def test_missing_indexes_are_found_and_made(mongo: MongoLab) -> None:
    mongo.put()
    mongo.database["tasks"].drop_index("streamq_claim")
    found = of(mongo.mongo.check(), "the indexes are there")
    assert (found.said, found.severity, found.repaired) == ("tasks misses streamq_claim", "error", "")
    repaired = mongo.mongo.check(repair=True)
    assert (of(repaired, "the indexes are there").repaired, repaired.valid) == ("made them", True)
    assert whats(mongo.mongo.check()) == []


def test_the_meta_collection_has_its_indexes_too(mongo: MongoLab) -> None:
    mongo.put()
    mongo.database["tasks.meta"].drop_index("streamq_meta_remove")
    found = of(mongo.mongo.check(repair=True), "the indexes are there")
    assert (found.said, found.repaired) == ("tasks.meta misses streamq_meta_remove", "made them")
    assert whats(mongo.mongo.check()) == []


@pytest.mark.parametrize(
    "other",
    [
        {"keys": [("queue", 1)], "partialFilterExpression": {"status": "ready"}},
        {"keys": [("queue", 1), ("status", 1), ("priority", -1), ("seq", 1), ("task", 1)]},
    ],
)
def test_an_index_that_differs_is_found_and_left_to_a_person(mongo: MongoLab, other: dict[str, Any]) -> None:
    mongo.put()
    tasks = mongo.database["tasks"]
    tasks.drop_index("streamq_claim")
    tasks.create_index(other.pop("keys"), name="streamq_claim", **other)
    checkup = mongo.mongo.check(repair=True)
    found = of(checkup, "the indexes are as they should be")
    assert "dropIndex('streamq_claim')" in found.advice
    assert (found.repaired, checkup.valid) == ("", False)


@pytest.mark.parametrize(
    "options", [{"capped": True, "size": 100_000}, {"viewOn": "other"}, {"collation": {"locale": "de"}}]
)
def test_a_collection_of_another_kind_cannot_hold_tasks(
    uri: str, empty_database: str, admin: MongoClient[dict[str, Any]], options: dict[str, Any]
) -> None:
    store = MongoStore.connect(uri, empty_database)
    admin[empty_database].create_collection("tasks", **options)
    checkup = store.check(repair=True)
    assert of(checkup, "the collection can hold tasks").severity == "error"
    assert not checkup.valid
    store.close()


def test_dead_letters_need_a_collection_that_holds_tasks_too(
    uri: str, empty_database: str, admin: MongoClient[dict[str, Any]]
) -> None:
    store = MongoStore.connect(uri, empty_database, dead_letters="dead")
    store.prepare()
    assert whats(store.check()) == []
    admin[empty_database].drop_collection("dead")
    admin[empty_database].create_collection("dead", capped=True, size=100_000)
    checkup = store.check()
    assert of(checkup, "the collection can hold tasks").said == "dead is a capped collection"
    assert not checkup.valid
    store.close()


def test_a_clock_that_is_off_is_told(mongo: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "wall", lambda: datetime.now(UTC) - timedelta(hours=1))
    checkup = mongo.mongo.check()
    assert checkup.clock_ahead_s is not None
    assert 3_590 < checkup.clock_ahead_s < 3_610
    assert "ahead of" in of(checkup, "the clocks agree").said
    assert checkup.valid


def test_a_majority_that_does_not_answer_is_an_error(uri: str, database: str) -> None:
    store = MongoStore.connect(uri, database)
    store.prepare()
    store.close()
    store = MongoStore.connect(uri, database, timeout_s=0.5)
    admin = store.client.admin  # fail points need no right
    on = {
        "mode": "alwaysOn",
        "data": {"failCommands": ["update"], "writeConcernError": {"code": 64, "errmsg": "waited in vain"}},
    }
    admin.command({"configureFailPoint": "failCommand", **on})
    try:
        checkup = store.check()
    finally:
        admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    assert "waited in vain" in of(checkup, "a majority takes writes").said
    assert not checkup.valid
    store.close()


def test_what_cannot_be_asked_is_a_finding_and_no_end(mongo: MongoLab) -> None:
    id = mongo.put()
    mongo.edit(id, {"$set": {"status": "lost"}})
    admin = mongo.admin.admin
    on = {"mode": "alwaysOn", "data": {"failCommands": ["listIndexes", "collStats"], "errorCode": 13}}
    admin.command({"configureFailPoint": "failCommand", **on})
    try:
        checkup = mongo.mongo.check()
    finally:
        admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    assert "everything can be asked" in whats(checkup)
    assert of(checkup, "a task has a status that there is").ids == (id,)


# --- workers -------------------------------------------------------------------------------------------------------


def test_workers_are_listed_with_their_age_and_what_they_run(mongo: MongoLab) -> None:
    plain = Member("m1", "host", 7, ("q",), 4, 30.0)
    named = Member("m2", "host", 8, (), 0, 30.0, worker="$mail")
    for member in (plain, named):
        mongo.store.beat(member)
    for name in ("m1", "m1", "$mail", "script:9"):
        mongo.put()
        mongo.claim(1, worker=name, claim_id=os.urandom(16))
    mongo.mongo._tasks.durable.update_one({"_id": "member:m2"}, {"$set": {"beat_at": LONG_AGO}})
    first, second, third = mongo.mongo.workers()
    assert (first.id, first.name, first.pid, first.queues, first.slots) == ("m1", "m1", 7, ("q",), 4)
    assert first.beat_age_s is not None
    assert (first.running, first.is_alive, first.beat_age_s < 10) == (2, True, True)
    assert (second.name, second.queues, second.running, second.is_alive) == ("$mail", (), 1, False)
    assert (third.id, third.name, third.running, third.beat_age_s) == (None, "script:9", 1, None)


def test_a_queue_without_a_worker_is_told(mongo: MongoLab) -> None:
    mongo.put("a")
    mongo.put("b")
    mongo.store.beat(mongo.member(queues=("b",)))
    assert of(mongo.mongo.check(), "queues with ready tasks have a worker").said == "none works on: a"
