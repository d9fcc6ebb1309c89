"""Delayed tasks whose time has come: read, claimed at once, or released without waiting for a majority."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId

from streamq.core import queries
from streamq.core.claim import Claim
from streamq.core.document import TaskDocument
from streamq.core.options import PutOptions
from streamq.core.outcome import Raised
from streamq.errors import ClaimUnknown
from streamq.store import claiming, releasing
from tests.conformance.conftest import Lab, MongoLab

MANY = 64


def claim_due(lab: Lab, *ids: ObjectId, found: Sequence[TaskDocument | None] | None = None, **more: Any) -> list[Claim]:
    """Claim those of `ids` among what is (or was) found due."""
    read = lab.store.due(MANY, whole=True).found if found is None else found
    tasks = [one for one in read if one is not None and one["_id"] in ids]
    ask = lab.ask(max(1, len(tasks)), ids=tuple(one["_id"] for one in tasks), due=True, **more)
    return list(lab.store.claim_due(ask, tasks).claims)


def test_due_tasks_are_told_the_more_urgent_first_with_all_that_a_claim_needs(lab: Lab) -> None:
    plain, once = lab.put(options={"delay_s": 5}), lab.put("b", task="u", max_attempts=1, options={"delay_s": 6})
    urgent = lab.put(priority=9, options={"delay_s": 7})
    lab.put(options={"delay_s": 500})
    lab.pass_time(60)
    due = lab.store.due(MANY)
    assert [(one.id, one.queue, one.task, one.durable) for one in due.wakes] == [
        (urgent, "q", "t", False),
        (plain, "q", "t", False),
        (once, "b", "u", True),
    ]
    assert all(one.kind == "ready" and one.is_new for one in due.wakes)
    assert due.next_s == pytest.approx(440, abs=10)
    assert lab.stored(plain)["status"] == "delayed"


def test_a_look_with_nothing_due_says_when_the_next_is(lab: Lab) -> None:
    assert (lab.store.due(MANY).wakes, lab.store.due(MANY).next_s) == ((), None)
    lab.put(options={"delay_s": 50})
    due = lab.store.due(MANY)
    assert due.wakes == ()
    assert due.next_s == pytest.approx(50, abs=5)


def test_release_moves_what_is_due_once_and_nothing_else(lab: Lab) -> None:
    due, later = lab.put(options={"delay_s": 5}), lab.put(options={"delay_s": 500})
    lab.pass_time(60)
    assert lab.store.release_due([due, later]).moved == 1
    assert lab.store.release_due([due, later]).moved == 0
    stored = lab.stored(due)
    assert (stored["status"], stored["ready_in"], stored["attempt"]) == ("ready", "q", 0)
    assert lab.stored(later)["status"] == "delayed"


def test_release_wakes_the_queue(lab: Lab) -> None:
    due = lab.put(options={"delay_s": 5})
    ear = lab.hear("q")
    lab.pass_time(60)
    lab.store.release_due([due])
    lab.store.flush()
    assert [(wake.kind, wake.id) for wake in ear.rest()] == [("ready", due)]


def test_flood_is_told_of_by_its_queues_alone(lab: Lab) -> None:
    due = [lab.put(queue, options={"delay_s": 5}) for queue in ("q", "q", "q", "b")]
    ear = lab.hear("q", "b")
    lab.pass_time(60)
    assert lab.store.release_due(due, ["q", "b"]).moved == 4
    lab.store.flush()
    assert sorted(wake.freed_in for wake in ear.rest()) == ["b", "q"]
    assert {lab.stored(id)["status"] for id in due} == {"ready"}
    assert not any("ready_in" in lab.stored(id) for id in due)


def test_queue_is_announced_anew_as_long_as_a_task_waits_that_has_not_said_it(lab: Lab) -> None:
    """What is written must be a change, or no stream tells it."""
    due = [lab.put(options={"delay_s": 5}) for _ in range(2)]
    ear = lab.hear("q")
    lab.pass_time(60)
    lab.store.release_due(due, ["q"])
    for _ in range(2):
        lab.store.release_due((), ["q"])
    lab.store.flush()
    assert [wake.id for wake in ear.rest()] == due


def test_due_task_is_claimed_as_if_it_had_been_released(lab: Lab) -> None:
    due = lab.put(options={"delay_s": 5})
    ear = lab.hear("q")
    lab.pass_time(60)
    (claim,) = claim_due(lab, due)
    stored = lab.stored(due)
    assert (claim.id, claim.attempt) == (due, 1)
    assert (stored["status"], stored["attempt"], stored["claim_id"]) == ("running", 1, claim.claim_id)
    assert ear.rest() == []
    assert lab.store.release_due([due]).moved == 0
    assert claim_due(lab, due) == []
    assert lab.settle(claim, "succeed") == "settled"


def test_due_tasks_are_claimed_together_the_more_urgent_first(lab: Lab) -> None:
    plain, once = lab.put(options={"delay_s": 5}), lab.put(max_attempts=1, options={"delay_s": 6})
    urgent, timed = lab.put(priority=9, options={"delay_s": 7}), lab.put(total_timeout_s=9, options={"delay_s": 8})
    lab.pass_time(60)
    claims = claim_due(lab, plain, once, urgent, timed)
    assert [claim.id for claim in claims] == [urgent, plain, once, timed]
    assert [claim.total_s for claim in claims[:-1]] == [None, None, None]
    assert claims[-1].total_s == pytest.approx(9, abs=0.1)
    assert {lab.stored(claim.id)["status"] for claim in claims} == {"running"}


def test_task_that_is_ahead_is_not_read(lab: Lab) -> None:
    lab.put(options={"delay_s": 500})
    assert lab.store.due(MANY, whole=True).found == ()


def test_look_reads_those_that_have_been_due_for_longest(lab: Lab) -> None:
    for delay_s in (7, 5, 6):
        lab.put(options={"delay_s": delay_s}, priority=delay_s)
    lab.pass_time(60)
    due = lab.store.due(2, whole=True)
    assert [one["priority"] for one in due.found if one is not None] == [6, 5]
    assert due.next_s == 0.0


def put_off(lab: Lab, id: ObjectId) -> None:
    """Claimed by another, who puts it off without using up an attempt: but for its time it is as it was."""
    (claim,) = claim_due(lab, id)
    lab.settle(claim, "snooze", delay_s=500)


def claimed_by_another(lab: Lab, id: ObjectId) -> None:
    claim_due(lab, id)


def released_by_another(lab: Lab, id: ObjectId) -> None:
    lab.store.release_due([id])


def retried(lab: Lab, id: ObjectId) -> None:
    (claim,) = claim_due(lab, id)
    lab.settle(claim, "retry_later", error=Raised("Boom", "no"), delay_s=5)
    lab.pass_time(60)


def cancelled(lab: Lab, id: ObjectId) -> None:
    lab.store.cancel([id])


def replaced(lab: Lab, id: ObjectId) -> None:
    options: PutOptions = {"unique": "k", "on_conflict": "replace", "delay_s": 5}
    assert lab.store.put([lab.new(payload={"new": 1}, options=options)])[0].outcome == "replaced"
    lab.pass_time(60)


def removed(lab: Lab, id: ObjectId) -> None:
    lab.remove(id)


@pytest.mark.parametrize(
    "meanwhile", [put_off, claimed_by_another, released_by_another, retried, cancelled, replaced, removed]
)
def test_task_that_is_not_as_it_was_read_is_not_claimed(lab: Lab, meanwhile: Callable[[Lab, ObjectId], None]) -> None:
    due, other = lab.put(options={"delay_s": 5, "unique": "k"}), lab.put(options={"delay_s": 5})
    lab.pass_time(60)
    found = lab.store.due(MANY, whole=True).found
    meanwhile(lab, due)
    assert [claim.id for claim in claim_due(lab, due, other, found=found)] == [other]


def test_due_task_that_has_expired_unnoticed_is_not_claimed(lab: Lab) -> None:
    due = lab.put(expires_in_s=20, options={"delay_s": 5})
    lab.pass_time(60)
    assert claim_due(lab, due) == []


def test_overdue_tasks_are_told_by_their_queues(lab: Lab) -> None:
    due = [lab.put(options={"delay_s": 5}), lab.put(options={"delay_s": 6}), lab.put("b", options={"delay_s": 7})]
    lab.put(options={"delay_s": 500})
    lab.pass_time(60)
    overdue = lab.store.overdue()
    assert (sorted(overdue.ids), sorted(overdue.queues), overdue.more) == (sorted(due), ["b", "q"], False)
    assert lab.store.release_due(overdue.ids).moved == 3


def test_unknown_claim_of_a_due_task_is_released(lab: Lab) -> None:
    due = lab.put(options={"delay_s": 5})
    lab.pass_time(60)
    (claim,) = claim_due(lab, due)
    assert lab.store.abandon(ClaimUnknown("q", claim.claim_id, (due,), 0.0, "test")) == 1
    assert (lab.stored(due)["status"], lab.stored(due)["attempt"]) == ("ready", 0)


def test_tick_that_leaves_releases_to_others_says_when_the_next_is_due(lab: Lab) -> None:
    claim, due = lab.claimed(), lab.put(options={"delay_s": 5})
    lab.pass_time(31)
    tick = lab.store.tick(False)
    assert (tick.released, tick.due_s) == (((claim.id, "q"),), 0.0)
    assert lab.stored(due)["status"] == "delayed"
    lab.store.release_due([due])
    lab.put(options={"delay_s": 50})
    tick = lab.store.tick(False)
    assert tick.next_s is None
    assert tick.due_s == pytest.approx(50, abs=5)


# --- the real one --------------------------------------------------------------------------------------------------


def test_flush_waits_until_a_majority_has_the_release(mongo: MongoLab) -> None:
    """Without it the journal of a one-node set comes to that by itself, up to 100 ms later."""
    for _ in range(4):
        due = mongo.put(options={"delay_s": 5})
        mongo.pass_time(60)
        mongo.store.release_due([due])
        mongo.store.flush()
        stored = mongo.store.get(due)  # of what the majority has
        assert stored is not None
        assert stored["status"] == "ready"


def test_flood_is_read_in_steps(mongo: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releasing, "MOST_OVERDUE", 2)
    for number in range(3):
        mongo.put(options={"delay_s": 5 + number})
    mongo.pass_time(60)
    left = []
    for _ in range(3):
        overdue = mongo.store.overdue()
        mongo.store.release_due(overdue.ids)
        left.append((len(overdue.ids), overdue.more))
    assert left == [(2, True), (1, False), (0, False)]


@pytest.mark.parametrize(
    "broken", [{"attempt": "0"}, {"attempt": -1}, {"attempt": float("nan")}, {"max_attempts": None}, {"attempt": True}]
)
def test_what_is_no_task_is_released_and_not_claimed(mongo: MongoLab, broken: dict[str, Any]) -> None:
    due = mongo.put(options={"delay_s": 5})
    mongo.edit(due, {"$set": broken})
    mongo.pass_time(60)
    found = mongo.store.due(MANY, whole=True)
    assert ([wake.id for wake in found.wakes], found.found) == ([due], (None,))


def test_due_task_that_must_not_start_twice_is_claimed_with_majority(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, plain = mongo.put(max_attempts=1, options={"delay_s": 5}), mongo.put(options={"delay_s": 5})
    mongo.pass_time(60)
    into: list[tuple[ObjectId, bool]] = []
    take = claiming._Taking.take

    def taking(one: claiming._Taking, ids: list[ObjectId]) -> Sequence[ObjectId]:
        into.extend((id, one.durable) for id in ids)
        return take(one, ids)

    monkeypatch.setattr(claiming._Taking, "take", taking)
    assert len(claim_due(mongo, once, plain)) == 2
    assert sorted(into) == sorted([(once, True), (plain, False)])


def test_task_nobody_can_be_woken_for_is_released_all_the_same(mongo: MongoLab) -> None:
    due = mongo.put(options={"delay_s": 5})
    mongo.mongo._tasks.durable.update_one({"_id": due}, {"$set": {"queue": 7}})
    mongo.pass_time(60)
    found, overdue = mongo.store.due(MANY, whole=True), mongo.store.overdue()
    assert (found.wakes, found.others, found.found) == ((), (due,), ())
    assert (overdue.ids, overdue.queues) == ((due,), ())
    assert mongo.store.release_due(found.others).moved == 1


def test_due_tasks_are_found_by_the_index_however_many_are_ahead(mongo: MongoLab) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    mongo.store.put([mongo.new(options={"at": later}) for _ in range(200)])
    mongo.put(options={"delay_s": 5})
    mongo.mongo._tasks.durable.update_one(
        {"due_at": {"$lt": later}}, {"$set": {"due_at": datetime.now(UTC) - timedelta(seconds=1)}}
    )
    quick = mongo.mongo._tasks.quick
    for stages in (queries.due_and_next(10, whole=True), queries.overdue(10)):
        command = {"aggregate": quick.name, "pipeline": stages, "cursor": {}}
        found = quick.database.command("explain", command, verbosity="executionStats")
        stats = found["stages"][0]["$cursor"]["executionStats"] if "stages" in found else found["executionStats"]
        assert stats["totalKeysExamined"] <= 10


# --- leases that end again and again --------------------------------------------------------------------------------


def test_tasks_whose_leases_end_together_for_the_second_time_come_back_apart(lab: Lab) -> None:
    """A poison that ends its process takes what runs beside it with it; claimed together ever again all would fail."""
    ids = [lab.put() for _ in range(16)]
    for _ in range(2):
        assert len(lab.claim(16, lease_s=160.0)) == 16
        lab.pass_time(161)
        lab.store.tick()
    back = [id for id in ids if lab.stored(id)["status"] == "ready"]
    apart = {lab.stored(id)["due_at"] for id in ids if id not in back}
    assert all(lab.stored(id)["status"] == "delayed" for id in ids if id not in back)
    assert len(back) <= 3
    assert len(apart) > 8
    assert max(apart) - min(apart) < timedelta(seconds=60)
    assert [error["type"] for error in lab.stored(ids[0])["errors"]] == ["LeaseExpired"] * 2


def test_tasks_that_come_back_apart_keep_their_places(lab: Lab) -> None:
    ids = [lab.put() for _ in range(16)]
    for _ in range(2):
        lab.claim(16, lease_s=160.0)
        lab.pass_time(161)
        lab.store.tick()
    lab.pass_time(61)
    lab.store.tick()
    assert [claim.id for claim in lab.claim(16)] == ids


def test_schedulers_hear_of_what_comes_back_apart(lab: Lab) -> None:
    ids = [lab.put(max_attempts=2) for _ in range(4)]
    lab.claim(4, lease_s=160.0)
    lab.pass_time(161)
    ear = lab.hear(timers=True)
    lab.store.tick()
    heard = {wake.due_in_s for wake in ear.rest() if wake.kind == "delayed"}
    assert len(heard) >= 3
    assert any(lab.stored(id)["status"] == "delayed" for id in ids)
