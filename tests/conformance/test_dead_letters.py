"""Dead letters in a place of their own: what both stores keep, then what only a server can break."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, ServerSelectionTimeoutError

from streamq.core.limits import Limits
from streamq.core.moves.requeue import Requeue
from streamq.core.outcome import Raised
from streamq.core.parents import OnParentFailure
from streamq.core.search import Search
from streamq.errors import OutcomeUnknown, StoreError, StoreUnavailable, UsageError
from streamq.store import dead_letters, settling
from streamq.store.memory import MemoryStore
from streamq.store.mongo import MongoStore
from tests.access import Access, allowed
from tests.conformance.conftest import Lab, MemoryLab, MongoLab
from tests.databases import Databases

BOOM = Raised("Boom", "it broke")
FAULTS = [{"errorCode": 11601}, {"closeConnection": True}]


@pytest.fixture(scope="module")
def databases(access: Access) -> Iterator[Databases]:
    with MongoClient[dict[str, Any]](access.admin_uri) as client:
        yield Databases(client, dead_letters="dead", made=access.open)


@pytest.fixture
def real(uri: str, database: str, admin: MongoClient[dict[str, Any]]) -> Iterator[MongoLab]:
    store = MongoStore.connect(uri, database, dead_letters="dead")
    yield MongoLab(store, admin)
    store.close()


@pytest.fixture(params=["memory", "mongo"])
def lab(request: pytest.FixtureRequest) -> Lab:
    if request.param == "mongo":
        found: MongoLab = request.getfixturevalue("real")
        return found
    memory = MemoryLab()
    memory.memory.dead = {}
    return memory


def fail(lab: Lab, **more: Any) -> ObjectId:
    claim = lab.claimed(**more)
    assert lab.settle(claim, "fail", error=BOOM) == "settled"
    return claim.id


def plain(lab: MongoLab) -> MongoLab:
    """A process on the same tasks that knows of no dead letters: what it fails stays where it is."""
    return lab.on(MongoStore(lab.mongo.client, lab.mongo._database.name))


def dead_of(lab: Lab) -> Any:
    assert isinstance(lab.store, MongoStore | MemoryStore)
    return lab.store.dead_letters()


def where(lab: Lab, id: ObjectId) -> list[str]:
    """Say in which of the two places a task is."""
    if isinstance(lab, MongoLab):
        database = lab.database
        return [name for name in ("tasks", "dead") if database[name].find_one({"_id": id}) is not None]
    assert isinstance(lab, MemoryLab)
    places = {"tasks": lab.memory.documents, "dead": lab.memory.dead or {}}
    return [name for name, place in places.items() if id in place]


def how(**more: Any) -> Requeue:
    return Requeue(ObjectId(), **more)


def tick(lab: Lab) -> None:
    """Tick as a scheduler does: again as long as something followed."""
    while lab.store.tick().followed:
        pass


def status(lab: Lab, id: ObjectId) -> str:
    return str((lab.store.get(id) or {})["status"])


# --- every way to failed -------------------------------------------------------------------------------------------


def test_a_task_fails_and_is_moved_in_one_step_and_kept_until_a_person_wants_otherwise(lab: Lab) -> None:
    id = fail(lab, payload={"a": 1}, reply_to="m1")
    assert where(lab, id) == ["dead"]
    stored = lab.store.get(id) or {}
    assert (stored["status"], stored["payload"], stored["errors"][0]["type"]) == ("failed", {"a": 1}, "Boom")
    assert {"finished_at", "settled_by", "settled_for"} <= stored.keys()
    assert not {"remove_at", "claim_id", "lease_until"} & stored.keys()


def test_only_what_failed_is_moved(lab: Lab) -> None:
    kept = [lab.put(), lab.claimed("w").id, lab.put(options={"delay_s": 60})]
    done, again, failed = lab.claimed(), lab.claimed(), lab.claimed()
    gone = lab.claimed(keep_s=0)
    batch = [
        lab.settlement(done, "succeed"),
        lab.settlement(failed, "fail", error=BOOM),
        lab.settlement(gone, "succeed", keep_s=0.0),
        lab.settlement(again, "retry", error=BOOM),
    ]
    assert lab.store.settle(batch) == ["settled"] * 4
    assert where(lab, failed.id) == ["dead"]
    assert {tuple(where(lab, id)) for id in (*kept, done.id, again.id)} == {("tasks",)}
    assert where(lab, gone.id) == []


def test_a_lease_that_ends_on_the_last_attempt_is_a_dead_letter_too(lab: Lab) -> None:
    claim, other = lab.claimed(max_attempts=1), lab.claimed(max_attempts=2)
    lab.pass_time(60)
    assert lab.store.tick().failed == 1
    assert (where(lab, claim.id), where(lab, other.id)) == (["dead"], ["tasks"])
    assert lab.settle(claim, "succeed") == "lost"


def test_a_total_time_that_is_over_makes_a_dead_letter(lab: Lab) -> None:
    claim = lab.claimed(total_timeout_s=50)
    lab.pass_time(60)
    assert lab.store.tick().failed == 1
    assert where(lab, claim.id) == ["dead"]


def test_a_task_that_fails_by_its_parents_is_moved_in_the_same_step(lab: Lab) -> None:
    parent = lab.claimed()
    child = lab.put(options={"after": [parent.id], "on_parent_failure": "fail"})
    calm = lab.put(options={"after": [parent.id], "on_parent_failure": "run"})
    grandchild = lab.put(options={"after": [child], "on_parent_failure": "fail"})
    lab.store.tick()
    lab.settle(parent, "fail", error=BOOM)
    lab.store.tick()
    assert (where(lab, child), status(lab, calm)) == (["dead"], "ready")
    assert where(lab, grandchild) == ["tasks"]
    lab.store.tick()
    assert where(lab, grandchild) == ["dead"]
    stored = lab.store.get(grandchild) or {}
    assert f"{child}, failed" in stored["errors"][0]["message"]


def test_a_dead_letter_frees_its_key_its_slot_and_its_turn(lab: Lab) -> None:
    id = lab.put(options={"unique": "u", "group": "g"})
    after = lab.put(options={"group": "g"})
    tick(lab)
    (claim,) = lab.claim(limits=Limits(running=1))
    ear = lab.hear("q")
    assert lab.settle(claim, "fail", error=BOOM, frees=True) == "settled"
    assert where(lab, id) == ["dead"]
    assert {wake.freed_in for wake in ear.rest()} >= {"q"}
    tick(lab)
    assert [one.id for one in lab.claim(limits=Limits(running=1))] == [after]
    lab.put(options={"unique": "u"})


def test_who_waits_hears_of_the_end_and_finds_the_task(lab: Lab) -> None:
    claim = lab.claimed(reply_to="m1")
    ear = lab.hear(reply_to="m1")
    lab.settle(claim, "fail", error=BOOM)
    assert (ear.next().kind, status(lab, claim.id)) == ("settled", "failed")
    found = lab.store.wait_for(claim.id, "m2")
    assert found is not None
    assert found["status"] == "failed"


def test_a_dead_letter_has_ended_for_who_cancels_it(lab: Lab) -> None:
    assert lab.store.cancel([fail(lab), ObjectId()]) == ["ended", "gone"]


def test_a_settlement_whose_task_was_moved_before_it_was_read_back_is_settled(lab: Lab) -> None:
    claim = lab.claimed()
    settlement = lab.settlement(claim, "fail", error=BOOM)
    assert lab.store.settle([settlement]) == ["settled"]
    assert where(lab, claim.id) == ["dead"]
    assert lab.store.settle([settlement]) == ["settled"]
    assert lab.store.settle([lab.settlement(claim, "succeed")]) == ["settled"]


# --- followers -----------------------------------------------------------------------------------------------------


def test_the_followers_of_a_dead_letter_are_seen_to_by_the_next_tick(lab: Lab) -> None:
    parent = lab.claimed()
    child = lab.put(options={"after": [parent.id]})
    lab.store.tick()
    ear = lab.hear(timers=True)
    lab.settle(parent, "fail", error=BOOM)
    assert where(lab, parent.id) == ["dead"]
    assert ear.next().follow_up
    done = lab.store.tick()
    assert (done.followed, status(lab, child)) == (1, "cancelled")
    assert "failed" in (lab.store.get(child) or {})["errors"][0]["message"]
    assert "follow_up" not in (lab.store.get(parent.id) or {})
    tick(lab)
    assert lab.store.tick().next_s is None


@pytest.mark.parametrize(("policy", "ended"), [("run", "ready"), ("cancel", "cancelled"), ("fail", "failed")])
def test_a_dead_letter_is_a_parent_that_failed(lab: Lab, policy: OnParentFailure, ended: str) -> None:
    parent = fail(lab)
    assert where(lab, parent) == ["dead"]
    child = lab.put(options={"after": [parent], "on_parent_failure": policy})
    tick(lab)
    assert status(lab, child) == ended


def test_a_sweep_finds_parents_among_the_dead_letters(lab: Lab) -> None:
    parent = fail(lab)
    child = lab.put(options={"after": [parent]})
    lab.unset(child, "follow_up")
    lab.store.sweep()
    assert "failed" in (lab.store.get(child) or {})["errors"][0]["message"]


def test_children_that_had_not_learnt_of_its_end_wait_for_the_next_one_of_a_requeued_letter(lab: Lab) -> None:
    parent = lab.claimed()
    child = lab.put(options={"after": [parent.id]})
    lab.store.tick()
    lab.settle(parent, "fail", error=BOOM)
    assert [one.verdict for one in dead_of(lab).requeue([parent.id], how())] == ["requeued"]
    tick(lab)
    assert status(lab, child) == "blocked"
    (claim,) = lab.claim()
    lab.settle(claim, "succeed")
    tick(lab)
    assert status(lab, child) == "ready"


def test_a_letter_that_is_deleted_at_once_has_told_its_children_how_it_ended(lab: Lab) -> None:
    parent = lab.claimed()
    child = lab.put(options={"after": [parent.id]})
    lab.store.tick()
    lab.settle(parent, "fail", error=BOOM)
    assert dead_of(lab).delete(parent.id) == "deleted"
    assert where(lab, parent.id) == []
    assert "failed" in (lab.store.get(child) or {})["errors"][0]["message"]


# --- back again ----------------------------------------------------------------------------------------------------


def test_a_requeued_dead_letter_is_a_task_again_in_its_old_place(lab: Lab) -> None:
    id = fail(lab, payload=1)
    newer = lab.put()
    ear = lab.hear("q")
    dead = dead_of(lab)
    assert [one.verdict for one in dead.requeue([id, newer, ObjectId()], how())] == ["requeued", "gone", "gone"]
    assert ear.next().id == id
    assert where(lab, id) == ["tasks"]
    stored = lab.stored(id)
    assert (stored["status"], stored["attempt"], len(stored["errors"])) == ("ready", 0, 1)
    assert [claim.id for claim in lab.claim()] == [id, newer]
    assert [one.verdict for one in dead.requeue([id], how())] == ["gone"]


def test_a_dead_letter_that_meets_its_twin_stays_and_hinders_no_other(lab: Lab) -> None:
    hindered, other = fail(lab, options={"unique": "a"}), fail(lab, options={"unique": "b"})
    lab.put(options={"unique": "a"})
    report = dead_of(lab).requeue([hindered, other], how(delay_s=60.0))
    assert [one.verdict for one in report] == ["conflict", "requeued"]
    assert (where(lab, hindered), where(lab, other)) == (["dead"], ["tasks"])
    assert lab.stored(other)["status"] == "delayed"


def test_a_letter_of_a_group_waits_for_its_turn_when_it_is_requeued(lab: Lab) -> None:
    id, running = lab.put(options={"group": "g"}), lab.put(options={"group": "g"})
    tick(lab)
    (claim,) = lab.claim()
    assert (claim.id, lab.settle(claim, "fail", error=BOOM)) == (id, "settled")
    tick(lab)
    (other,) = lab.claim()
    assert other.id == running
    dead_of(lab).requeue([id], how())
    tick(lab)
    assert status(lab, id) == "blocked"
    lab.settle(other, "succeed")
    tick(lab)
    assert [one.id for one in lab.claim()] == [id]


def test_a_stale_holder_changes_nothing_after_a_requeue(lab: Lab) -> None:
    claim = lab.claimed(max_attempts=1)
    lab.pass_time(60)
    lab.store.tick()
    dead_of(lab).requeue([claim.id], how())
    for move in ("fail", "succeed"):
        assert lab.settle(claim, move) == "lost"
    assert (where(lab, claim.id), status(lab, claim.id)) == (["tasks"], "ready")


def test_dead_letters_are_looked_at_and_purged_like_tasks(lab: Lab) -> None:
    ids = [fail(lab) for _ in range(2)]
    dead = dead_of(lab)
    assert [one["_id"] for one in dead.find(Search(), limit=5)] == ids[::-1]
    assert dead.counts() == {"q": {"failed": 2}}
    assert dead.delete(ids[0]) == "deleted"
    assert dead.purge(Search(statuses=("failed",)), 0.0).count == 1
    assert [where(lab, id) for id in ids] == [[], []]


def test_a_lifetime_that_is_over_is_no_letters_to_begin_again(lab: Lab) -> None:
    """It counts from the put, whatever becomes of the task; the server removes the letter itself."""
    id, young = fail(lab, options={"lifetime_s": 50}), fail(lab, options={"lifetime_s": 500})
    lab.pass_time(60)
    if isinstance(lab, MongoLab):
        past = {"$set": {"lifetime_until": lab.mongo.now() - timedelta(seconds=1)}}
        lab.database["dead"].update_one({"_id": id}, past)
    report = dead_of(lab).requeue([id, young], how())
    assert [one.verdict for one in report] == ["gone", "requeued"]
    assert "lifetime_until" in lab.stored(young)
    lab.pass_time(500)
    assert lab.store.tick().removed == 1
    assert where(lab, young) == []


# --- what only a server can break ----------------------------------------------------------------------------------


@contextlib.contextmanager
def failing(lab: MongoLab, command: str, fault: dict[str, Any]) -> Iterator[MongoStore]:
    """A process to which every such command fails, for good; what it left open is ended as the server would."""
    impatient = MongoStore(lab.mongo.client, lab.mongo._database.name, timeout_s=0.7, dead_letters="dead")
    admin = lab.admin.admin
    admin.command(
        {"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": {"failCommands": [command]} | fault}
    )
    try:
        with contextlib.suppress(StoreError):
            yield impatient
    finally:
        admin.command({"configureFailPoint": "failCommand", "mode": "off"})
        admin.command("killAllSessions", [])  # a transaction whose client is gone is ended after a minute at the latest


POINTS = ["update", "find", "delete", "commitTransaction"]


@pytest.mark.parametrize("command", POINTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_that_dies_at_any_point_leaves_its_task_in_one_place(
    real: MongoLab, command: str, fault: dict[str, Any]
) -> None:
    claims = [real.claimed() for _ in range(3)]
    settlements = [real.settlement(one, "fail", error=BOOM) for one in claims]
    with failing(real, command, fault) as store:
        store.settle(settlements)
    for one in claims:
        assert where(real, one.id) in (["tasks"], ["dead"])
        document = real.database[where(real, one.id)[0]].find_one({"_id": one.id}) or {}
        assert (document["status"] == "failed") == (where(real, one.id) == ["dead"])
        assert document["status"] in ("running", "failed")
    assert real.store.settle(settlements) == ["settled"] * 3
    assert [where(real, one.id) for one in claims] == [["dead"]] * 3


@pytest.mark.parametrize("command", POINTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_lease_that_ends_while_its_scheduler_dies_leaves_the_task_in_one_place(
    real: MongoLab, command: str, fault: dict[str, Any]
) -> None:
    ids = [real.claimed(max_attempts=1).id for _ in range(3)]
    real.pass_time(60)
    with failing(real, command, fault) as store:
        store.tick()
    assert all(len(where(real, id)) == 1 for id in ids)
    tick(real)
    assert [where(real, id) for id in ids] == [["dead"]] * 3


@pytest.mark.parametrize("command", POINTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_move_of_what_failed_before_that_dies_at_any_point_loses_and_doubles_nothing(
    real: MongoLab, command: str, fault: dict[str, Any]
) -> None:
    ids = [fail(plain(real)) for _ in range(3)]
    with failing(real, command, fault) as store:
        dead_letters.bury(store._tasks, [])
    assert all(len(where(real, id)) == 1 for id in ids)
    real.store.tick()
    assert [where(real, id) for id in ids] == [["dead"]] * 3


def test_a_commit_whose_answer_is_lost_is_found_out(real: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = real.claimed()
    commit = ClientSession.commit_transaction

    def unanswered(self: ClientSession) -> None:
        commit(self)
        monkeypatch.undo()
        raise_unknown()

    monkeypatch.setattr(ClientSession, "commit_transaction", unanswered)
    assert real.settle(claim, "fail", error=BOOM) == "settled"
    assert where(real, claim.id) == ["dead"]


def raise_unknown() -> None:
    error = AutoReconnect("connection closed")
    error._add_error_label("UnknownTransactionCommitResult")
    raise error


def meanwhile(
    monkeypatch: pytest.MonkeyPatch, name: str, does: Callable[[], object], collection: str = "tasks"
) -> None:
    """Have something done right before the next call of that method of a collection."""
    method = getattr(Collection, name)

    def wrapped(self: Any, *given: Any, **more: Any) -> Any:
        if self.name == collection:
            monkeypatch.undo()
            does()
        return method(self, *given, **more)

    monkeypatch.setattr(Collection, name, wrapped)


def test_a_task_requeued_while_it_is_moved_stays_among_the_tasks(
    real: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    id, other = fail(plain(real)), fail(plain(real))
    meanwhile(monkeypatch, "delete_many", lambda: real.store.requeue([id], how()))
    assert dead_letters.bury(real.mongo._tasks, []) == 1
    assert (where(real, id), real.stored(id)["status"]) == (["tasks"], "ready")
    assert where(real, other) == ["dead"]


def test_a_failure_that_meets_another_transaction_is_written_again(
    real: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, other, gone = real.claimed(), real.claimed(), real.claimed(keep_s=0)
    with real.mongo.client.start_session() as session, session.start_transaction():
        real.mongo._tasks.durable.update_one({"_id": claim.id}, {"$set": {"theirs": 1}}, session=session)
        read_back = settling._read_back

        def released(*given: Any) -> Any:
            monkeypatch.undo()
            session.abort_transaction()
            return read_back(*given)

        monkeypatch.setattr(settling, "_read_back", released)
        batch = [real.settlement(one, "fail", error=BOOM) for one in (claim, other)]
        verdicts = real.store.settle([*batch, real.settlement(gone, "succeed", keep_s=0.0)])
    assert verdicts == ["settled"] * 3
    assert [where(real, one.id) for one in (claim, other, gone)] == [["dead"], ["dead"], []]


def test_a_task_that_was_taken_over_is_not_failed_by_its_old_holder(
    real: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = real.claimed(max_attempts=1)

    def taken_back_and_requeued() -> None:
        real.pass_time(60)
        assert real.store.tick().failed == 1
        assert real.mongo.dead_letters().requeue([claim.id], how())[0].verdict == "requeued"

    meanwhile(monkeypatch, "bulk_write", taken_back_and_requeued)
    assert real.settle(claim, "fail", error=BOOM) == "lost"
    assert (where(real, claim.id), real.stored(claim.id)["status"]) == (["tasks"], "ready")


def test_what_the_collection_for_letters_does_not_take_fails_where_it_is_and_is_told_of(real: MongoLab) -> None:
    database = real.database
    database.command({"collMod": "dead", "validator": {"payload.bad": {"$exists": False}}})
    bad = [real.claimed(payload={"bad": 1}) for _ in range(2)]
    good = [real.claimed() for _ in range(2)]
    verdicts = real.store.settle([real.settlement(one, "fail", error=BOOM) for one in (*bad, *good)])
    assert verdicts == ["settled"] * 4
    assert [where(real, one.id) for one in bad] == [["tasks"]] * 2
    assert [where(real, one.id) for one in good] == [["dead"]] * 2
    last, fine = real.claimed(payload={"bad": 1}, max_attempts=1), real.claimed(max_attempts=1)
    real.pass_time(60)
    done = real.store.tick()
    assert done.failed == 2
    assert {one.id for one in done.refused} == {one.id for one in (*bad, last)}
    assert all("dead letters" in one.said for one in done.refused)
    assert (where(real, last.id), where(real, fine.id)) == (["tasks"], ["dead"])
    database.command({"collMod": "dead", "validator": {}})
    assert real.store.tick().refused == ()
    assert [where(real, one.id) for one in (*bad, last)] == [["dead"]] * 3


def test_a_result_that_is_too_large_makes_a_dead_letter_that_says_so(real: MongoLab) -> None:
    claim = real.claimed()
    assert real.settle(claim, "succeed", result="x" * 17_000_000) == "settled"
    assert where(real, claim.id) == ["dead"]
    assert (real.store.get(claim.id) or {})["errors"][0]["type"] == "PayloadTooLarge"


def test_a_scheduler_waits_a_moment_where_another_transaction_has_what_is_due(real: MongoLab) -> None:
    """One that died in its transaction holds it for up to a minute: nobody is to ask without end meanwhile."""
    claim = real.claimed(max_attempts=1)
    real.pass_time(60)
    client = real.mongo.client
    with client.start_session() as session, session.start_transaction():
        real.mongo._tasks.durable.update_one({"_id": claim.id}, {"$set": {"theirs": 1}}, session=session)
        done = real.store.tick()
        assert (done.failed, done.refused) == (0, ())
        assert (done.next_s or 0.0) >= 0.05
        session.abort_transaction()
    assert real.store.tick().failed == 1
    assert where(real, claim.id) == ["dead"]


def test_a_parent_that_moves_while_its_child_is_put_is_not_missing(
    real: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = real.claimed()
    meanwhile(monkeypatch, "update_many", lambda: real.settle(parent, "fail", error=BOOM))
    child = real.put(options={"after": [parent.id]})
    assert where(real, parent.id) == ["dead"]
    tick(real)
    assert real.stored(child)["status"] == "cancelled"


def test_a_letter_that_is_requeued_between_two_looks_is_found(real: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    id = fail(real)
    meanwhile(monkeypatch, "find", lambda: real.mongo.dead_letters().requeue([id], how()), collection="dead")
    assert dead_letters.statuses(real.mongo._tasks, [id]) == {id: "ready"}


def test_all_at_once_a_keyed_task_of_a_group_with_parents_and_children_fails_and_comes_back(real: MongoLab) -> None:
    parent = real.claimed("parents")
    options: Any = {"after": [parent.id], "group": "g", "unique": "u", "tag": "x"}
    id = real.put(options=options)
    follower = real.put(options={"group": "g"})
    child = real.put(options={"after": [id], "on_parent_failure": "run"})
    tick(real)
    real.settle(parent, "succeed")
    tick(real)
    (claim,) = real.claim()
    assert claim.id == id
    real.settle(claim, "fail", error=BOOM)
    assert where(real, id) == ["dead"]
    tick(real)
    assert {one.id for one in real.claim()} == {follower, child}
    twin = real.put(options={"unique": "u"})
    dead = real.mongo.dead_letters()
    assert dead.requeue([id], how())[0].verdict == "conflict"
    assert real.store.delete(twin) == "deleted"
    assert dead.requeue([id], how())[0].verdict == "requeued"
    tick(real)
    assert status(real, id) == "blocked"  # until its group's turn is given on
    assert (where(real, id), allowed(real.mongo.check())) == (["tasks"], [])


def test_the_check_knows_the_indexes_for_dead_letters(real: MongoLab) -> None:
    assert allowed(real.mongo.check()) == []
    assert allowed(real.mongo.dead_letters().check()) == []
    real.database["tasks"].drop_index("streamq_failed")
    real.database["dead"].drop_index("streamq_lifetime")
    missing = ["dead misses streamq_lifetime", "tasks misses streamq_failed"]
    assert [one.said for one in allowed(real.mongo.check())] == missing
    assert len(allowed(real.mongo.check(repair=True))) == 2
    assert allowed(real.mongo.check()) == []


def test_a_store_without_dead_letters_keeps_failed_tasks_and_makes_no_transaction(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(ClientSession, "start_transaction", lambda *_, **__: begun.append(1))
    id = fail(mongo)
    mongo.store.tick()
    assert (where(mongo, id), begun) == (["tasks"], [])
    with pytest.raises(UsageError, match="dead_letter_collection"):
        mongo.mongo.dead_letters()


def test_failed_tasks_from_before_are_moved_many_at_a_time(real: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [fail(plain(real)) for _ in range(5)]
    monkeypatch.setattr(dead_letters, "MOST_AT_ONCE", 2)
    real.store.tick()
    assert [where(real, id) for id in ids] == [["dead"]] * 5


def test_one_from_before_that_is_not_taken_holds_up_no_other(real: MongoLab) -> None:
    ids = [fail(plain(real), payload={"bad": 1} if n == 2 else {}) for n in range(5)]
    real.database.command({"collMod": "dead", "validator": {"payload.bad": {"$exists": False}}})
    assert [one.id for one in real.store.tick().refused] == [ids[2]]
    assert [where(real, id) for id in ids] == [["tasks"] if n == 2 else ["dead"] for n in range(5)]


def test_what_others_wait_for_is_moved_once_they_know(real: MongoLab) -> None:
    claim = real.claimed()
    real.put(options={"after": [claim.id]})
    real.store.tick()
    plain(real).settle(claim, "fail", error=BOOM)
    dead_letters.bury(real.mongo._tasks, [])
    assert where(real, claim.id) == ["tasks"]
    tick(real)
    assert where(real, claim.id) == ["dead"]


def foreign_transaction(lab: MongoLab) -> contextlib.AbstractContextManager[ClientSession]:
    """Open a transaction of somebody else's, which is aborted at the end."""
    stack = contextlib.ExitStack()
    session = stack.enter_context(lab.mongo.client.start_session())
    session.start_transaction()
    stack.callback(session.abort_transaction)

    @contextlib.contextmanager
    def opened() -> Iterator[ClientSession]:
        with stack:
            yield session

    return opened()


def touched(lab: MongoLab, id: ObjectId, session: ClientSession) -> None:
    lab.mongo._tasks.durable.update_one({"_id": id}, {"$set": {"theirs": 1}}, session=session)


def impatient(lab: MongoLab, timeout_s: float) -> MongoStore:
    return MongoStore(lab.mongo.client, lab.mongo._database.name, timeout_s=timeout_s, dead_letters="dead")


def test_a_failure_that_somebody_writes_holds_up_no_other_of_its_batch(real: MongoLab) -> None:
    claims = [real.claimed() for _ in range(7)]
    batch = [real.settlement(one, "fail", error=BOOM) for one in claims]
    with foreign_transaction(real) as session:
        touched(real, claims[2].id, session)
        with pytest.raises(OutcomeUnknown, match="1 settlement"):
            impatient(real, 0.5).settle(batch)
        assert [where(real, one.id) for one in claims if one is not claims[2]] == [["dead"]] * 6
    assert real.store.settle(batch) == ["settled"] * 7
    assert where(real, claims[2].id) == ["dead"]


def test_a_last_lease_that_ends_while_somebody_writes_its_task_holds_up_no_other(real: MongoLab) -> None:
    claims = [real.claimed(max_attempts=1) for _ in range(5)]
    real.pass_time(60)
    with foreign_transaction(real) as session:
        touched(real, claims[2].id, session)
        done = real.store.tick()
        assert (done.failed, done.refused) == (4, ())
    assert real.store.tick().failed == 1
    assert [where(real, one.id) for one in claims] == [["dead"]] * 5


def test_a_move_of_what_failed_before_is_held_up_by_no_other(real: MongoLab) -> None:
    ids = [fail(plain(real)) for _ in range(5)]
    with foreign_transaction(real) as session:
        touched(real, ids[0], session)
        assert real.store.tick().refused == ()
        assert [where(real, id) for id in ids] == [["tasks"]] + [["dead"]] * 4
    real.store.tick()
    assert where(real, ids[0]) == ["dead"]


def test_a_letter_whose_key_somebody_is_about_to_put_is_a_conflict_for_that_letter_alone(real: MongoLab) -> None:
    free, met = fail(real), fail(real, options={"unique": "u"})
    with foreign_transaction(real) as session:
        real.store.put([real.new(options={"unique": "u"})], session)
        report = impatient(real, 0.5).dead_letters().requeue([free, met, free], how())
    assert [(one.id, one.verdict) for one in report] == [(free, "requeued"), (met, "conflict"), (free, "gone")]
    assert (where(real, free), where(real, met)) == (["tasks"], ["dead"])
    assert dead_of(real).requeue([met], how())[0].verdict == "requeued"


def test_many_that_fail_at_once_take_five_trips_a_hundred(real: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    real.store.put([real.new() for _ in range(1_000)])
    batch = [real.settlement(one, "fail", error=BOOM) for one in real.claim(1_000)]
    sizes: list[int] = []
    end = dead_letters.end

    def counted(tasks: Any, statements: Any, ids: Any) -> int:
        sizes.append(len(ids))
        return end(tasks, statements, ids)

    monkeypatch.setattr(dead_letters, "end", counted)
    assert real.store.settle(batch) == ["settled"] * 1_000
    assert sizes == [100] * 10
    assert real.database["dead"].count_documents({"status": "failed"}) == 1_000


def test_a_requeue_that_stops_half_way_does_not_say_that_nothing_has_changed(
    real: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = fail(real), fail(real)
    find_one = Collection.find_one

    def away(self: Any, *given: Any, **more: Any) -> Any:
        if given[0]["_id"] == second:
            raise ServerSelectionTimeoutError("no server")
        return find_one(self, *given, **more)

    monkeypatch.setattr(Collection, "find_one", away)
    with pytest.raises(StoreUnavailable):
        dead_of(real).requeue([second], how())
    with pytest.raises(OutcomeUnknown, match="some have been requeued"):
        dead_of(real).requeue([first, second], how())
    monkeypatch.undo()
    assert (where(real, first), where(real, second)) == (["tasks"], ["dead"])


def test_an_id_that_is_put_again_after_its_task_became_a_letter_is_a_new_task(lab: Lab) -> None:
    id = fail(lab, payload={"a": 1})
    again = lab.put(id=id, payload={"a": 2})
    assert again == id
    assert dead_of(lab).requeue([id], how())[0].verdict == "not terminal"
    (claim,) = lab.claim()
    lab.settle(claim, "fail", error=BOOM)
    assert where(lab, id) == ["dead"]
    assert (lab.store.get(id) or {})["payload"] == {"a": 2}
