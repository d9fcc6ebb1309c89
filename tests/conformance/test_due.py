"""Delayed tasks whose time has come: read, claimed at once, or released without waiting for a majority."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bson import ObjectId

from streamq.core import queries
from streamq.core.claim import Claim
from streamq.errors import ClaimUnknown
from streamq.store import releasing
from tests.conformance.conftest import Lab, MongoLab


def claim_due(lab: Lab, id: ObjectId, *, durable: bool = False, **more: object) -> list[Claim]:
    return lab.claim(1, ids=(id,), due=True, durable=durable, **more)


def test_due_tasks_are_told_the_more_urgent_first_with_all_that_a_claim_needs(lab: Lab) -> None:
    plain, once = lab.put(options={"delay_s": 5}), lab.put("b", task="u", max_attempts=1, options={"delay_s": 6})
    urgent = lab.put(priority=9, options={"delay_s": 7})
    lab.put(options={"delay_s": 500})
    lab.pass_time(60)
    due = lab.store.due()
    assert [(one.id, one.queue, one.task, one.durable) for one in due.wakes] == [
        (urgent, "q", "t", False),
        (plain, "q", "t", False),
        (once, "b", "u", True),
    ]
    assert all(one.kind == "ready" and one.is_new for one in due.wakes)
    assert due.next_s == pytest.approx(440, abs=10)
    assert lab.stored(plain)["status"] == "delayed"


def test_a_look_with_nothing_due_says_when_the_next_is(lab: Lab) -> None:
    assert (lab.store.due().wakes, lab.store.due().next_s) == ((), None)
    lab.put(options={"delay_s": 50})
    due = lab.store.due()
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


def test_delayed_task_is_not_claimed_before_its_time(lab: Lab) -> None:
    later = lab.put(options={"delay_s": 500})
    assert claim_due(lab, later) == []
    assert lab.stored(later)["status"] == "delayed"


def test_ready_task_is_not_claimed_as_a_due_one(lab: Lab) -> None:
    assert claim_due(lab, lab.put()) == []


def test_due_task_of_another_handler_or_queue_is_not_claimed(lab: Lab) -> None:
    due = lab.put(options={"delay_s": 5})
    lab.pass_time(60)
    assert claim_due(lab, due, only=("u",)) == []
    assert claim_due(lab, due, queue="other") == []


def test_due_task_that_has_expired_unnoticed_is_not_claimed(lab: Lab) -> None:
    due = lab.put(expires_in_s=20, options={"delay_s": 5})
    lab.pass_time(60)
    assert claim_due(lab, due) == []


def test_due_task_with_a_single_attempt_is_claimed_with_majority_only(lab: Lab) -> None:
    due = lab.put(max_attempts=1, options={"delay_s": 5})
    lab.pass_time(60)
    assert claim_due(lab, due) == []
    assert [claim.id for claim in claim_due(lab, due, durable=True)] == [due]


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


def test_more_than_one_step_moves_is_read_in_steps(mongo: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releasing, "MOST_A_TICK", 2)
    for number in range(3):
        mongo.put(options={"delay_s": 5 + number})
    mongo.pass_time(60)
    left = []
    for _ in range(3):
        due = mongo.store.due()
        mongo.store.release_due([one.id for one in due.wakes if one.id is not None])
        left.append((len(due.wakes), due.next_s))
    assert left == [(2, 0.0), (1, None), (0, None)]


def test_task_nobody_can_be_woken_for_is_released_all_the_same(mongo: MongoLab) -> None:
    due = mongo.put(options={"delay_s": 5})
    mongo.mongo._tasks.durable.update_one({"_id": due}, {"$set": {"queue": 7}})
    mongo.pass_time(60)
    found = mongo.store.due()
    assert (found.wakes, found.others) == ((), (due,))
    assert mongo.store.release_due(found.others).moved == 1


def test_due_tasks_are_found_by_the_index_however_many_are_ahead(mongo: MongoLab) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    mongo.store.put([mongo.new(options={"at": later}) for _ in range(200)])
    mongo.put(options={"delay_s": 5})
    mongo.mongo._tasks.durable.update_one(
        {"due_at": {"$lt": later}}, {"$set": {"due_at": datetime.now(UTC) - timedelta(seconds=1)}}
    )
    quick = mongo.mongo._tasks.quick
    stages = queries.due_and_next(10, quick.name)
    command = {"aggregate": quick.name, "pipeline": stages[:-1], "cursor": {}}
    found = quick.database.command("explain", command, verbosity="executionStats")
    stats = found["stages"][0]["$cursor"]["executionStats"] if "stages" in found else found["executionStats"]
    assert stats["totalKeysExamined"] <= 3
