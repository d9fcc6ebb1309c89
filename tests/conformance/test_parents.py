"""Tasks that run after others, as both stores must keep it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from streamq.core.moves.retain import GRACE_S
from streamq.core.options import KEEP_FAILED_S
from streamq.core.outcome import Raised
from streamq.errors import OptionInvalid
from streamq.store import dead_letters
from streamq.store.contract import Tick

if TYPE_CHECKING:
    from streamq.core.claim import Claim
    from tests.conformance.conftest import Lab, MongoLab

BOOM = Raised(type="Boom", message="it broke")


def child(lab: Lab, queue: str = "q", **options: Any) -> ObjectId:
    return lab.put(queue, options=options)


def end(lab: Lab, claim: Claim, how: str = "succeeded", **more: Any) -> None:
    if how == "succeeded":
        assert lab.settle(claim, "succeed", **more) == "settled"
    else:
        assert lab.settle(claim, "fail", error=BOOM, keep_s=60.0) == "settled"


def tick(lab: Lab) -> list[Tick]:
    """Tick as a scheduler does: again as long as something followed."""
    ticks = [lab.store.tick()]
    while ticks[-1].followed:
        ticks.append(lab.store.tick())
    return ticks


def released(lab: Lab) -> list[tuple[ObjectId, str]]:
    return [one for each in tick(lab) for one in each.released]


def status(lab: Lab, id: ObjectId) -> str:
    return str(lab.stored(id)["status"])


# --- all of them ---------------------------------------------------------------------------------------------------


def test_a_child_is_blocked_until_all_its_parents_have_succeeded(lab: Lab) -> None:
    first, second = lab.claimed(), lab.claimed("other")
    id = child(lab, after=[first.id, second.id])
    assert (status(lab, id), lab.stored(id)["blocked_by"]) == ("blocked", [first.id, second.id])
    end(lab, first)
    assert released(lab) == []
    assert lab.stored(id)["blocked_by"] == [second.id]
    assert lab.claim() == []
    end(lab, second)
    assert released(lab) == [(id, "q")]
    assert [claim.id for claim in lab.claim()] == [id]


def test_an_unblocked_task_has_no_trace_of_waiting_and_carries_the_queues_address(lab: Lab) -> None:
    parent = lab.claimed()
    id = child(lab, after=[parent.id])
    end(lab, parent)
    tick(lab)
    stored = lab.stored(id)
    assert (stored["status"], stored["ready_in"]) == ("ready", "q")
    assert not {"blocked_by", "blocked_by_any", "follow_up", "errors", "finished_at", "remove_at"} & stored.keys()


def test_a_plain_task_has_no_field_of_this_at_its_end(lab: Lab) -> None:
    claim = lab.claimed()
    end(lab, claim)
    assert not {"has_children", "follow_up", "blocked_by"} & lab.stored(claim.id).keys()
    assert "remove_at" in lab.stored(claim.id)


def test_a_child_whose_parents_have_all_succeeded_is_ready_at_once(lab: Lab) -> None:
    parent = lab.claimed()
    end(lab, parent)
    stored = lab.stored(child(lab, after=[parent.id]))
    assert stored["status"] == "ready"
    assert not {"blocked_by", "follow_up"} & stored.keys()


def test_a_child_with_a_delay_waits_for_it_once_it_is_unblocked(lab: Lab) -> None:
    parent = lab.claimed()
    id = child(lab, after=[parent.id], delay_s=60)
    end(lab, parent)
    assert released(lab) == []
    assert status(lab, id) == "delayed"


def test_a_child_whose_delay_has_passed_while_it_was_blocked_is_ready(lab: Lab) -> None:
    parent = lab.claimed()
    id = child(lab, after=[parent.id], delay_s=20)
    lab.pass_time(21)
    end(lab, parent)
    assert released(lab) == [(id, "q")]


def test_a_thousand_parents_are_awaited_and_the_last_one_unblocks(lab: Lab) -> None:
    parents = [reply.id for reply in lab.store.put([lab.new(keep_s=60) for _ in range(1_000)])]
    id = child(lab, "children", after=parents)
    claims = lab.claim(1_000)
    settlements = [lab.settlement(claim, "succeed") for claim in claims]
    assert set(lab.store.settle(settlements[:-1])) == {"settled"}
    assert released(lab) == []
    assert lab.stored(id)["blocked_by"] == [claims[-1].id]
    assert lab.store.settle(settlements[-1:]) == ["settled"]
    assert released(lab) == [(id, "children")]


def test_a_thousand_children_are_unblocked(lab: Lab) -> None:
    parent = lab.claimed()
    new = [lab.new("children", options={"after": [parent.id]}) for _ in range(1_001)]
    lab.store.put(new)
    end(lab, parent)
    assert sorted(released(lab)) == sorted((one.id, "children") for one in new)
    assert "follow_up" not in lab.stored(parent.id)


def test_a_task_may_run_after_one_before_it_in_the_same_put(lab: Lab) -> None:
    first = lab.new()
    second = lab.new(options={"after": [first]})
    third = lab.new(options={"after": [second]})
    lab.store.put([first, second, third])
    for one in (first, second, third):
        tick(lab)
        (claim,) = lab.claim()
        assert claim.id == one.id
        end(lab, claim)


# --- one of them ---------------------------------------------------------------------------------------------------


def test_one_success_of_any_is_enough(lab: Lab) -> None:
    claims = [lab.claimed() for _ in range(3)]
    id = child(lab, after_any=[claim.id for claim in claims])
    assert lab.stored(id)["blocked_by"] == lab.stored(id)["blocked_by_any"] == [claim.id for claim in claims]
    end(lab, claims[0], "failed")
    assert released(lab) == []
    assert lab.stored(id)["blocked_by_any"] == [claim.id for claim in claims[1:]]
    end(lab, claims[2])
    assert released(lab) == [(id, "q")]


def test_all_and_any_must_both_hold(lab: Lab) -> None:
    must, one, other = (lab.claimed() for _ in range(3))
    id = child(lab, after=[must.id], after_any=[one.id, other.id])
    end(lab, other)
    tick(lab)
    assert lab.stored(id)["blocked_by"] == [must.id]
    assert "blocked_by_any" not in lab.stored(id)
    end(lab, must)
    assert released(lab) == [(id, "q")]


def test_any_that_has_succeeded_already_is_not_awaited(lab: Lab) -> None:
    done, open_one = lab.claimed(), lab.claimed()
    end(lab, done)
    assert status(lab, child(lab, after_any=[open_one.id, done.id])) == "ready"


def test_no_success_left_of_any_ends_the_task(lab: Lab) -> None:
    claims = [lab.claimed() for _ in range(2)]
    id = child(lab, after_any=[claim.id for claim in claims])
    for claim in claims:
        end(lab, claim, "failed")
    tick(lab)
    stored = lab.stored(id)
    assert (stored["status"], stored["errors"][0]["type"]) == ("cancelled", "ParentFailed")
    assert "none of the tasks" in stored["errors"][0]["message"]


# --- parents that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "ends_in"), [(None, "cancelled"), ("cancel", "cancelled"), ("fail", "failed")])
def test_a_failed_parent_ends_its_child_and_is_named(lab: Lab, policy: Any, ends_in: str) -> None:
    parent, other = lab.claimed(), lab.claimed()
    id = child(lab, after=[other.id, parent.id], on_parent_failure=policy)
    end(lab, parent, "failed")
    tick(lab)
    stored = lab.stored(id)
    assert stored["status"] == ends_in
    assert (stored["errors"][0]["type"], stored["errors"][0]["attempt"]) == ("ParentFailed", 0)
    assert str(parent.id) in stored["errors"][0]["message"]
    assert stored["remove_at"] - stored["finished_at"] == timedelta(seconds=KEEP_FAILED_S)
    assert not {"blocked_by", "follow_up", "ready_in"} & stored.keys()


def test_a_failed_parent_lets_a_child_run_that_wants_to(lab: Lab) -> None:
    claims = [lab.claimed() for _ in range(3)]
    id = child(lab, after=[claims[0].id], after_any=[claims[1].id, claims[2].id], on_parent_failure="run")
    end(lab, claims[0], "failed")
    end(lab, claims[1], "failed")
    assert released(lab) == [(id, "q")]


def test_a_parent_that_has_failed_already_ends_its_child_once_it_is_stored(lab: Lab) -> None:
    parent = lab.claimed()
    end(lab, parent, "failed")
    id = child(lab, after=[parent.id])
    assert status(lab, id) == "blocked"
    tick(lab)
    assert status(lab, id) == "cancelled"


def test_a_cancelled_child_cancels_its_own_children(lab: Lab) -> None:
    parent = lab.claimed()
    ids = [parent.id]
    for _ in range(3):
        ids.append(child(lab, after=[ids[-1]]))
    end(lab, parent, "failed")
    tick(lab)
    assert [status(lab, id) for id in ids[1:]] == ["cancelled"] * 3
    assert str(ids[2]) in lab.stored(ids[3])["errors"][0]["message"]


def test_a_child_that_is_ended_by_its_parent_is_told_to_who_waits_for_it(lab: Lab) -> None:
    parent = lab.claimed()
    id = lab.put(reply_to="m1", options={"after": [parent.id]})
    ear = lab.hear(reply_to="m1")
    end(lab, parent, "failed")
    tick(lab)
    wake = ear.next()
    assert (wake.kind, wake.id) == ("settled", id)


# --- parents that are not there ------------------------------------------------------------------------------------


def test_an_unknown_parent_is_refused_and_nothing_is_stored(lab: Lab) -> None:
    unknown, known = ObjectId(), lab.put()
    before = lab.stored(known)
    with pytest.raises(OptionInvalid, match=f"after.*{unknown}"):
        lab.store.put([lab.new(), lab.new(options={"after": [known, unknown]})])
    assert lab.store.counts() == {"q": {"ready": 1}}
    assert lab.stored(known) == before


def test_an_unknown_parent_is_satisfied_where_that_is_asked_for(lab: Lab) -> None:
    parent = lab.claimed()
    id = child(lab, after=[ObjectId(), parent.id], missing_parent="satisfied")
    assert lab.stored(id)["blocked_by"] == [parent.id]
    assert status(lab, child(lab, after_any=[ObjectId()], missing_parent="satisfied")) == "ready"


def test_a_task_cannot_run_after_itself_or_one_behind_it(lab: Lab) -> None:
    id, later = ObjectId(), lab.new()
    with pytest.raises(OptionInvalid, match="after"):
        lab.put(id=id, options={"after": [id]})
    with pytest.raises(OptionInvalid, match="after"):
        lab.store.put([lab.new(options={"after": [later.id]}), later])
    assert lab.store.counts() == {}


def test_a_task_with_a_unique_key_is_no_parent_in_its_own_put(lab: Lab) -> None:
    """It may turn out to be another task, and there would be nothing under its id."""
    first = lab.new(options={"unique": "a"})
    with pytest.raises(OptionInvalid, match="after"):
        lab.store.put([first, lab.new(options={"after": [first]})])
    assert lab.store.counts() == {}


def test_a_put_of_a_child_is_repeated_though_its_parent_is_gone(lab: Lab) -> None:
    parent = lab.claimed()
    new = lab.new(options={"after": [parent.id]})
    lab.store.put([new])
    end(lab, parent)
    lab.remove(parent.id)
    (reply,) = lab.store.put([new])
    assert not reply.created


def test_a_sweep_ends_children_of_parents_that_were_removed(lab: Lab) -> None:
    parent = lab.put()
    id = child(lab, after=[parent])
    tick(lab)
    lab.remove(parent)
    tick(lab)
    assert status(lab, id) == "blocked"
    assert lab.store.sweep().released == ()
    assert status(lab, id) == "cancelled"
    assert "not stored" in lab.stored(id)["errors"][0]["message"]


@pytest.mark.parametrize("kind", ["ready", "running", "delayed"])
def test_children_of_a_deleted_parent_learn_of_it_by_the_next_tick(lab: Lab, kind: str) -> None:
    parent = lab.claimed().id if kind == "running" else lab.put(options={"delay_s": 60} if kind == "delayed" else {})
    ids = [child(lab, after=[parent]), child(lab, after=[parent], on_parent_failure="run")]
    tick(lab)
    ear = lab.hear(timers=True)
    assert lab.store.delete(parent, force=kind == "running") == "deleted"
    assert ear.next().follow_up
    assert released(lab) == [(ids[1], "q")]
    assert [status(lab, id) for id in ids] == ["cancelled", "ready"]
    assert "not stored" in lab.stored(ids[0])["errors"][0]["message"]


def test_children_of_a_parent_whose_lifetime_is_over_learn_of_it_by_the_same_tick(lab: Lab) -> None:
    parent = lab.put(options={"lifetime_s": 50})
    id = child(lab, after=[parent])
    tick(lab)
    lab.pass_time(60)
    assert lab.store.tick().removed == 1
    assert status(lab, id) == "cancelled"


@pytest.mark.parametrize("how", ["deleted", "outlived"])
@pytest.mark.parametrize(("ended", "then"), [("succeeded", "ready"), ("failed", "cancelled")])
def test_a_parent_that_is_removed_at_its_end_has_told_its_children_how_it_ended(
    lab: Lab, how: str, ended: str, then: str
) -> None:
    parent = lab.claimed(options={"lifetime_s": 50})
    id = child(lab, after=[parent.id])
    tick(lab)
    end(lab, parent, ended)
    if how == "deleted":
        assert lab.store.delete(parent.id) == "deleted"
    else:
        lab.pass_time(60)
        assert sum(one.removed for one in tick(lab)) == 1
    tick(lab)
    assert status(lab, id) == then
    assert lab.store.get(parent.id) is None


def test_a_deletion_while_its_child_is_looked_at_is_looked_at_again(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = mongo.put()
    id = child(mongo, after=[parent])
    statuses = dead_letters.statuses

    def meanwhile(*given: Any) -> Any:
        monkeypatch.undo()
        found = statuses(*given)
        assert mongo.store.delete(parent) == "deleted"
        return found

    monkeypatch.setattr(dead_letters, "statuses", meanwhile)
    tick(mongo)
    assert status(mongo, id) == "cancelled"


def test_a_deletion_does_not_wait_for_a_child_that_the_server_lets_nobody_change(mongo: MongoLab) -> None:
    parent = mongo.claimed()
    id = child(mongo, after=[parent.id])
    tick(mongo)
    end(mongo, parent)
    stuck = {"$or": [{"_id": {"$ne": id}}, {"status": "blocked"}]}
    mongo.database.command({"collMod": "tasks", "validator": stuck})
    assert mongo.store.delete(parent.id) == "deleted"
    assert status(mongo, id) == "blocked"


def test_a_sweep_unblocks_what_nothing_else_would(lab: Lab) -> None:
    parent = lab.claimed()
    id = child(lab, after=[parent.id])
    end(lab, parent)
    for one in (parent.id, id):
        lab.unset(one, "follow_up")
    assert released(lab) == []
    assert lab.store.sweep().released == ((id, "q"),)


# --- keeping parents -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [True, False])
def test_a_parent_that_is_deleted_at_its_success_is_kept_until_its_children_know(lab: Lab, late: bool) -> None:
    parent = lab.claimed(keep_s=0) if late else None
    parent_id = parent.id if parent is not None else lab.put(keep_s=0)
    id = child(lab, "children", after=[parent_id])
    (claim,) = [parent] if parent is not None else lab.claim()
    other = lab.claimed(keep_s=0)
    settlements = [lab.settlement(one, "succeed", keep_s=0.0, followed=one.followed) for one in (claim, other)]
    assert lab.store.settle(settlements) == ["settled", "settled"]
    assert lab.store.get(other.id) is None
    stored = lab.stored(parent_id)
    assert (stored["status"], stored["follow_up"], "remove_at" in stored) == ("succeeded", 0.0, False)
    assert released(lab) == [(id, "children")]
    stored = lab.stored(parent_id)
    kept_s = (stored["remove_at"] - stored["finished_at"]).total_seconds()
    assert GRACE_S <= kept_s < GRACE_S + 60
    assert "follow_up" not in stored


def test_a_parents_retention_begins_when_its_children_know(lab: Lab) -> None:
    parent = lab.claimed()
    child(lab, after=[parent.id])
    end(lab, parent, keep_s=7_000.0)
    assert "remove_at" not in lab.stored(parent.id)
    tick(lab)
    stored = lab.stored(parent.id)
    assert 7_000 <= (stored["remove_at"] - stored["finished_at"]).total_seconds() < 7_060


def test_a_lease_that_ends_on_the_last_attempt_of_a_parent_ends_its_children(lab: Lab) -> None:
    parent = lab.claimed(max_attempts=1)
    id = child(lab, after=[parent.id])
    lab.pass_time(31)
    tick(lab)
    assert (status(lab, parent.id), status(lab, id)) == ("failed", "cancelled")


# --- telling -------------------------------------------------------------------------------------------------------


def test_schedulers_hear_of_a_child_and_of_its_parents_end(lab: Lab) -> None:
    parent = lab.claimed()
    ear = lab.hear(timers=True)
    id = child(lab, after=[parent.id])
    wake = ear.next()
    assert (wake.kind, wake.id, wake.follow_up) == ("follow_up", id, True)
    tick(lab)
    end(lab, parent)
    wake = ear.next()
    assert (wake.kind, wake.id, wake.follow_up) == ("follow_up", parent.id, True)


def test_an_unblocked_task_is_told_to_its_queue(lab: Lab) -> None:
    parent = lab.claimed("other")
    id = child(lab, after=[parent.id])
    ear = lab.hear("q")
    end(lab, parent)
    tick(lab)
    wake = ear.next()
    assert (wake.kind, wake.id, wake.queue) == ("ready", id, "q")
