"""Features that meet on one task, as both stores must keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bson import ObjectId

from streamq.core import queries
from streamq.core.limits import Limits, Rate
from streamq.core.moves.requeue import Requeue
from streamq.core.search import Search

if TYPE_CHECKING:
    from streamq.core.options import PutOptions
    from tests.conformance.conftest import Lab, MongoLab

SLOW = Rate(1, per_s=1_000, burst=2)


def tick(lab: Lab) -> None:
    """Tick as a scheduler does: again as long as something followed."""
    while lab.store.tick().followed:
        pass


# --- a success inside a transaction --------------------------------------------------------------------------------


def test_success_in_a_transaction_keeps_a_task_that_has_got_children_since_its_claim(mongo: MongoLab) -> None:
    claim = mongo.claimed()
    child = mongo.put(options={"after": [claim.id]})
    session = mongo.store.begin()
    assert mongo.store.commit(session, mongo.settlement(claim, "succeed", keep_s=0.0)) == "settled"
    tick(mongo)
    assert mongo.stored(child)["status"] == "ready"
    assert mongo.stored(claim.id)["status"] == "succeeded"
    assert "remove_at" in mongo.stored(claim.id)


# --- a key's slots and what waits for them --------------------------------------------------------------------------


def test_of_what_waits_for_a_slot_of_its_key_the_most_urgent_comes_back_first(lab: Lab) -> None:
    limits = Limits(key_running=1)
    lab.put(options={"rate_key": "k"})
    (runs,) = lab.claim(limits=limits)
    lab.put(options={"rate_key": "k"})
    urgent = lab.put(priority=10, options={"rate_key": "k"})
    assert lab.claim(limits=limits) == []
    lab.store.settle([lab.settlement(runs, "succeed", frees=True)])
    assert [claim.id for claim in lab.claim(limits=limits)] == [urgent]


def test_slot_of_a_running_task_that_is_deleted_is_told_of(lab: Lab) -> None:
    lab.put(options={"rate_key": "k"})
    held_up = lab.put(options={"rate_key": "k"})
    limits = Limits(key_running=1)
    (runs,) = lab.claim(limits=limits)
    ear = lab.hear("q")
    assert lab.store.delete(runs.id, force=True) == "deleted"
    assert any(wake.freed_in == "q" for wake in ear.rest())
    assert [claim.id for claim in lab.claim(limits=limits)] == [held_up]


def test_slot_of_a_running_task_whose_lifetime_ends_is_told_of(lab: Lab) -> None:
    lab.put(options={"lifetime_s": 60})
    limits = Limits(running=1)
    lab.claim(limits=limits)
    ear = lab.hear("q")
    lab.pass_time(61)
    assert lab.store.tick().removed == 1
    assert any(wake.freed_in == "q" for wake in ear.rest())


@pytest.mark.parametrize("limits", [Limits(running=1, key_running=1), Limits(rate=SLOW, key_running=1)])
def test_no_more_come_back_for_a_slot_of_their_key_than_it_has_while_the_queue_waits(lab: Lab, limits: Limits) -> None:
    for _ in range(6):
        lab.put(options={"rate_key": "k"})
    (runs,) = lab.claim(limits=limits)
    lab.store.settle([lab.settlement(runs, "succeed", frees=True)])
    other = lab.put(priority=9)
    assert other in [claim.id for claim in lab.claim(1, limits=limits)]
    ear = lab.hear("q")
    for _ in range(4):
        assert lab.claim(limits=limits) == []
    assert lab.store.counts()["q"]["ready"] == 1
    assert [wake for wake in ear.rest() if wake.kind == "ready"] == []  # each would be a reason to claim again


def test_handlers_unknown_here_hold_up_no_known_ones_of_their_key(lab: Lab) -> None:
    limits = Limits(key_running=1)
    for task in ("t", "other", "t"):
        lab.put(task=task, options={"rate_key": "k"})
    (runs,) = lab.claim(limits=limits)
    lab.store.settle([lab.settlement(runs, "succeed", frees=True)])
    (claim,) = lab.claim(limits=limits, only=("t",))
    assert claim.task == "t"


def test_task_that_came_back_for_a_slot_and_waits_for_a_token_is_not_called_again(lab: Lab) -> None:
    limits = Limits(key_rate=Rate(1, per_s=1_000), key_running=1)
    for _ in range(2):
        lab.put(options={"rate_key": "k"})
    (runs,) = lab.claim(limits=limits)
    lab.store.settle([lab.settlement(runs, "succeed", frees=True)])
    for _ in range(2):
        assert lab.claim(limits=limits) == []
        (late,) = (one for one in lab.store.find(Search(), limit=9) if one["status"] == "delayed")
        assert "held_up_by" not in late
    assert (late["due_at"] - lab.store.now()).total_seconds() > 400


def test_keys_that_tasks_wait_for_are_found_without_reading_the_tasks(mongo: MongoLab) -> None:
    for key in "kl":
        mongo.store.put([mongo.new(options={"rate_key": key}) for _ in range(30)])
    mongo.claim(limits=Limits(key_running=1))
    wanted = {"distinct": "tasks", "key": "held_up_by", "query": queries.keys_held_up("q")}
    stats = mongo.database.command({"explain": wanted, "verbosity": "executionStats"})["executionStats"]
    assert (stats["totalKeysExamined"], stats["totalDocsExamined"]) == (2, 0)


# --- begun again ----------------------------------------------------------------------------------------------------


def test_task_of_a_group_that_is_requeued_at_once_does_not_wait_for_the_instant_of_its_put(lab: Lab) -> None:
    id = lab.put(options={"group": "g", "delay_s": 3_600})
    tick(lab)
    lab.store.cancel([id])
    tick(lab)
    (done,) = lab.store.requeue([id], Requeue(ObjectId()))
    assert done.verdict == "requeued"
    tick(lab)
    assert lab.stored(id)["status"] == "ready"


def test_total_time_of_a_task_that_was_given_back_does_not_bind_the_put_that_takes_its_place(lab: Lab) -> None:
    put: PutOptions = {"unique": "k", "on_conflict": "replace"}
    claim = lab.claimed(options=put, total_timeout_s=60)
    lab.settle(claim, "release")
    lab.pass_time(61)
    (reply,) = lab.store.put([lab.new(options=put, total_timeout_s=60)])
    assert reply.outcome == "replaced"
    (again,) = lab.claim()
    assert again.total_s == 60


def test_who_waits_for_a_replaced_task_may_have_any_name(lab: Lab) -> None:
    lab.put(options={"unique": "k"}, reply_to="$queue")
    (reply,) = lab.store.put([lab.new(options={"unique": "k", "on_conflict": "replace"}, reply_to="$status")])
    assert lab.stored(reply.id)["reply_to"] == ["$queue", "$status"]
