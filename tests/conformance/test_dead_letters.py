"""Dead letters in a collection of their own, on the real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from streamq.core.moves.requeue import Requeue
from streamq.core.outcome import Raised
from streamq.core.parents import OnParentFailure
from streamq.core.search import Search
from streamq.errors import StoreError, UsageError
from streamq.store import dead_letters
from streamq.store.mongo import MongoStore
from tests.conformance.conftest import MongoLab

BOOM = Raised("Boom", "it broke")


@pytest.fixture
def lab(uri: str, database: str) -> Iterator[MongoLab]:
    store = MongoStore.connect(uri, database, dead_letters="dead")
    store.prepare()
    yield MongoLab(store)
    store.close()


def fail(lab: MongoLab, **more: Any) -> ObjectId:
    claim = lab.claimed(**more)
    assert lab.settle(claim, "fail", error=BOOM) == "settled"
    return claim.id


def where(lab: MongoLab, id: ObjectId) -> list[str]:
    """Say in which of the two collections a task is."""
    database = lab.mongo._database
    return [name for name in ("tasks", "dead") if database[name].find_one({"_id": id}) is not None]


def how(**more: Any) -> Requeue:
    return Requeue(ObjectId(), **more)


def test_a_failed_task_is_moved_as_it_is_and_kept_until_a_person_wants_otherwise(
    lab: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dead_letters, "bury", lambda *_: 0)
        id = fail(lab, payload={"a": 1}, reply_to="m1")
    before = lab.stored(id)
    lab.store.tick()
    assert where(lab, id) == ["dead"]
    del before["remove_at"]
    dead = lab.mongo._dead
    assert dead is not None
    assert dead.durable.find_one({"_id": id}) == before
    assert dict(lab.store.get(id) or {}) == before


def test_only_what_failed_is_moved(lab: MongoLab) -> None:
    kept = [lab.put(), lab.claimed("w").id, lab.put(options={"delay_s": 60})]
    done, again = lab.claimed(), lab.claimed()
    lab.settle(done, "succeed")
    lab.settle(again, "retry", error=BOOM)
    moved = fail(lab)
    assert where(lab, moved) == ["dead"]
    assert {tuple(where(lab, id)) for id in (*kept, done.id, again.id)} == {("tasks",)}


def test_a_lease_that_ends_on_the_last_attempt_is_a_dead_letter_too(lab: MongoLab) -> None:
    claim = lab.claimed(max_attempts=1)
    lab.pass_time(60)
    assert lab.store.tick().failed == 1
    assert where(lab, claim.id) == ["dead"]
    assert lab.settle(claim, "succeed") == "lost"


def test_what_follows_its_end_is_seen_to_before_a_task_is_moved(lab: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dead_letters, "bury", lambda *_: 0)
        id = fail(lab)
    lab.edit(id, {"$set": {"follow_up": 0.0}})
    dead_letters.bury(lab.mongo.client, lab.mongo._tasks, lab.mongo._dead)  # type: ignore[arg-type]
    assert where(lab, id) == ["tasks"]


@pytest.mark.parametrize("command", ["find", "update", "delete", "commitTransaction"])
@pytest.mark.parametrize("fault", [{"errorCode": 11601}, {"closeConnection": True}])
def test_a_move_that_dies_at_any_point_loses_and_doubles_nothing(
    lab: MongoLab, monkeypatch: pytest.MonkeyPatch, command: str, fault: dict[str, Any]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dead_letters, "bury", lambda *_: 0)
        ids = [fail(lab) for _ in range(3)]
    impatient = MongoStore(lab.mongo.client, lab.mongo._database.name, timeout_s=0.7, dead_letters="dead")
    admin = lab.mongo.client.admin
    on = {"mode": "alwaysOn", "data": {"failCommands": [command], **fault}}
    admin.command({"configureFailPoint": "failCommand", **on})
    try:
        dead_letters.bury(impatient.client, impatient._tasks, impatient._dead)  # type: ignore[arg-type]
    except StoreError:
        pass
    finally:
        admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    assert all(len(where(lab, id)) == 1 for id in ids)
    # A transaction whose client is gone is ended by the server, after a minute at the latest.
    admin.command("killAllSessions", [])
    lab.store.tick()
    assert [where(lab, id) for id in ids] == [["dead"]] * 3


def test_a_task_requeued_while_it_is_moved_stays_among_the_tasks(
    lab: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dead_letters, "bury", lambda *_: 0)
        id, other = fail(lab), fail(lab)
    delete_many = Collection.delete_many

    def meanwhile(self: Any, *given: Any, **more: Any) -> Any:
        monkeypatch.undo()
        assert lab.store.requeue([id], how())[0].verdict == "requeued"
        return delete_many(self, *given, **more)

    monkeypatch.setattr(Collection, "delete_many", meanwhile)
    assert dead_letters.bury(lab.mongo.client, lab.mongo._tasks, lab.mongo._dead) == 0  # type: ignore[arg-type]
    assert (where(lab, id), lab.stored(id)["status"]) == (["tasks"], "ready")
    lab.store.tick()
    assert (where(lab, id), where(lab, other)) == (["tasks"], ["dead"])


def test_a_settlement_whose_task_was_moved_before_it_was_read_back_is_settled(lab: MongoLab) -> None:
    claim = lab.claimed()
    settlement = lab.settlement(claim, "fail", error=BOOM)
    assert lab.store.settle([settlement]) == ["settled"]
    assert where(lab, claim.id) == ["dead"]
    assert lab.store.settle([settlement]) == ["settled"]


def test_a_requeued_dead_letter_is_a_task_again_in_its_old_place(lab: MongoLab) -> None:
    id = fail(lab, payload=1)
    newer = lab.put()
    ear = lab.hear("q")
    dead = lab.mongo.dead_letters()
    assert [one.verdict for one in dead.requeue([id, newer, ObjectId()], how())] == ["requeued", "gone", "gone"]
    assert ear.next().id == id
    assert where(lab, id) == ["tasks"]
    stored = lab.stored(id)
    assert (stored["status"], stored["attempt"], len(stored["errors"])) == ("ready", 0, 1)
    assert [claim.id for claim in lab.claim()] == [id, newer]
    assert [one.verdict for one in dead.requeue([id], how())] == ["gone"]


def test_a_dead_letter_that_meets_its_twin_stays_and_hinders_no_other(lab: MongoLab) -> None:
    hindered, other = fail(lab, options={"unique": "a"}), fail(lab, options={"unique": "b"})
    lab.put(options={"unique": "a"})
    report = lab.mongo.dead_letters().requeue([hindered, other], how(delay_s=60.0))
    assert [one.verdict for one in report] == ["conflict", "requeued"]
    assert (where(lab, hindered), where(lab, other)) == (["dead"], ["tasks"])
    assert lab.stored(other)["status"] == "delayed"


def test_dead_letters_are_looked_at_and_purged_like_tasks(lab: MongoLab) -> None:
    ids = [fail(lab) for _ in range(2)]
    dead = lab.mongo.dead_letters()
    assert [one["_id"] for one in dead.find(Search(), limit=5)] == ids[::-1]
    assert dead.counts() == {"q": {"failed": 2}}
    assert dead.delete(ids[0]) == "deleted"
    assert dead.purge(Search(statuses=("failed",)), 0.0).count == 1
    assert [where(lab, id) for id in ids] == [[], []]


def test_the_check_knows_the_index_for_dead_letters(lab: MongoLab) -> None:
    assert lab.mongo.check().findings == ()
    lab.mongo._tasks.durable.drop_index("streamq_failed")
    assert [one.said for one in lab.mongo.check().findings] == ["tasks misses streamq_failed"]


def test_a_store_without_dead_letters_keeps_failed_tasks(mongo: MongoLab) -> None:
    id = fail(mongo)
    mongo.store.tick()
    assert where(mongo, id) == ["tasks"]
    with pytest.raises(UsageError, match="dead_letter_collection"):
        mongo.mongo.dead_letters()


def test_failed_tasks_from_before_are_moved_many_at_a_time(lab: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dead_letters, "bury", lambda *_: 0)
        ids = [fail(lab) for _ in range(5)]
    monkeypatch.setattr(dead_letters, "MOST_AT_ONCE", 2)
    lab.store.tick()
    assert [where(lab, id) for id in ids] == [["dead"]] * 5


@pytest.mark.parametrize(("policy", "status"), [("run", "ready"), ("cancel", "cancelled"), ("fail", "failed")])
def test_a_dead_letter_is_a_parent_that_failed(lab: MongoLab, policy: OnParentFailure, status: str) -> None:
    parent = fail(lab)
    assert where(lab, parent) == ["dead"]
    child = lab.put(options={"after": [parent], "on_parent_failure": policy})
    while lab.store.tick().followed:
        pass
    assert (lab.store.get(child) or {})["status"] == status
