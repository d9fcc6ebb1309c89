"""Ordering groups, as both stores must keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from streamq.core.moves.requeue import Requeue
from streamq.core.outcome import Raised
from tests.conformance.test_parents import end, released, status, tick

if TYPE_CHECKING:
    from streamq.core.claim import Claim
    from tests.conformance.conftest import Lab

BOOM = Raised(type="Boom", message="it broke")


def put(lab: Lab, group: str = "g", queue: str = "q", **options: Any) -> ObjectId:
    return lab.put(queue, options={"group": group, **options})


def claims(lab: Lab, queue: str = "q") -> list[Claim]:
    tick(lab)
    return lab.claim(queue=queue)


def test_tasks_of_a_group_are_claimed_one_at_a_time_in_the_order_of_storing(lab: Lab) -> None:
    ids = [reply.id for reply in lab.store.put([lab.new(options={"group": "g"}, priority=n) for n in range(4)])]
    for id in ids:
        (claim,) = claims(lab)
        assert claim.id == id
        assert claims(lab) == []
        end(lab, claim)
    assert claims(lab) == []


def test_a_grouped_task_waits_for_its_turn_and_the_tick_gives_it(lab: Lab) -> None:
    id, other = put(lab), put(lab)
    assert (status(lab, id), lab.stored(id)["group"]) == ("blocked", "g")
    assert released(lab) == [(id, "q")]
    stored = lab.stored(id)
    assert (stored["status"], stored["group_lock"], stored["ready_in"]) == ("ready", "g", "q")
    assert "follow_up" not in stored
    assert "follow_up" not in lab.stored(other)


def test_groups_and_queues_do_not_wait_for_each_other(lab: Lab) -> None:
    ids = [put(lab, "g"), put(lab, "h"), put(lab, "$g")]
    elsewhere = put(lab, "g", "other")
    put(lab, "g")
    assert {claim.id for claim in claims(lab)} == set(ids)
    assert [claim.id for claim in claims(lab, "other")] == [elsewhere]


@pytest.mark.parametrize("move", ["retry", "release", "retry_later", "snooze"])
def test_a_task_that_will_run_again_holds_its_group_back(lab: Lab, move: Any) -> None:
    first, second = put(lab), put(lab)
    (claim,) = claims(lab)
    more = {"delay_s": 60.0} if move in ("retry_later", "snooze") else {}
    lab.settle(claim, move, **more | ({"error": BOOM} if "retry" in move else {}))
    assert lab.stored(first)["group_lock"] == "g"
    assert status(lab, second) == "blocked"
    lab.pass_time(61)
    assert [claim.id for claim in claims(lab)] == [first]


def test_a_lost_lease_holds_its_group_back_until_its_last_attempt(lab: Lab) -> None:
    first = lab.put(max_attempts=2, options={"group": "g"})
    second = put(lab)
    for _ in range(2):
        assert [claim.id for claim in claims(lab)] == [first]
        lab.pass_time(31)
        lab.store.tick()
        lab.pass_time(31)  # with one attempt left it comes back after a moment of its own
    assert [claim.id for claim in claims(lab)] == [second]
    assert status(lab, first) == "failed"


@pytest.mark.parametrize("how", ["succeeded", "failed"])
def test_every_end_gives_the_turn_on_and_frees_the_lock(lab: Lab, how: str) -> None:
    first, second = put(lab), put(lab)
    (claim,) = claims(lab)
    end(lab, claim, how)
    assert "group_lock" not in lab.stored(first)
    assert [claim.id for claim in claims(lab)] == [second]
    assert "remove_at" in lab.stored(first)


@pytest.mark.parametrize("which", [0, 1])
def test_a_cancelled_task_does_not_hold_its_group_back(lab: Lab, which: int) -> None:
    ids = [put(lab), put(lab), put(lab)]
    tick(lab)
    assert lab.store.cancel([ids[which]]) == ["cancelled"]
    rest = [id for id in ids if id != ids[which]]
    for id in rest:
        (claim,) = claims(lab)
        assert claim.id == id
        end(lab, claim)


def test_a_success_that_is_not_kept_gives_the_turn_on(lab: Lab) -> None:
    first = lab.put(keep_s=0, options={"group": "g"})
    second = put(lab)
    (claim,) = claims(lab)
    # Whether or not the holder knew at its claim that others wait.
    assert lab.store.settle([lab.settlement(claim, "succeed", keep_s=0.0)]) == ["settled"]
    assert lab.stored(first)["follow_up"] == 0.0
    assert [claim.id for claim in claims(lab)] == [second]
    stored = lab.stored(first)
    assert abs((stored["remove_at"] - stored["finished_at"]).total_seconds()) < 30


def test_a_delayed_task_holds_its_group_back_until_it_is_due(lab: Lab) -> None:
    first, second = put(lab, delay_s=60), put(lab)
    assert claims(lab) == []
    assert (status(lab, first), status(lab, second)) == ("delayed", "blocked")
    lab.pass_time(61)
    assert [claim.id for claim in claims(lab)] == [first]


def test_a_task_that_waits_for_others_holds_its_group_back_too(lab: Lab) -> None:
    parent = lab.claimed("parents")
    first = put(lab, after=[parent.id])
    second = put(lab)
    assert claims(lab) == []
    end(lab, parent)
    (claim,) = claims(lab)
    assert claim.id == first
    end(lab, claim)
    assert [claim.id for claim in claims(lab)] == [second]


def test_a_requeued_task_waits_for_its_turn_and_keeps_its_place(lab: Lab) -> None:
    ids = [put(lab) for _ in range(3)]
    (claim,) = claims(lab)
    end(lab, claim, "failed")
    (running,) = claims(lab)
    lab.store.requeue([ids[0]], Requeue(ObjectId()))
    assert status(lab, ids[0]) == "blocked"
    assert claims(lab) == []
    end(lab, running)
    (claim,) = claims(lab)
    assert claim.id == ids[0]
    end(lab, claim)
    assert [claim.id for claim in claims(lab)] == [ids[2]]


def test_a_grouped_task_never_waits_in_a_process(lab: Lab) -> None:
    put(lab)
    tick(lab)
    assert lab.claim(1, spare=1) == []
    plain = lab.put()
    assert [claim.id for claim in lab.claim(2, spare=2)] == [plain]


def test_a_grouped_task_is_claimed_by_its_id_with_majority_only(lab: Lab) -> None:
    id = put(lab)
    tick(lab)
    assert lab.claim(ids=(id,)) == []
    assert [claim.id for claim in lab.claim(ids=(id,), durable=True)] == [id]


def test_a_sweep_gives_the_turn_on_when_its_task_was_removed(lab: Lab) -> None:
    first, second = put(lab), put(lab)
    tick(lab)
    lab.remove(first)
    assert released(lab) == []
    assert lab.store.sweep().released == ((second, "q"),)


@pytest.mark.parametrize("running", [True, False])
def test_the_turn_of_a_deleted_task_is_given_on_by_the_next_tick(lab: Lab, running: bool) -> None:
    first, second, third = put(lab), put(lab), put(lab)
    tick(lab)
    assert not running or [claim.id for claim in claims(lab)] == [first]
    ear = lab.hear(timers=True)
    assert lab.store.delete(first, force=running) == "deleted"
    assert ear.next().follow_up
    assert released(lab) == [(second, "q")]
    assert lab.store.delete(third) == "deleted"


def test_the_turn_of_a_task_whose_lifetime_is_over_is_given_on_by_the_same_tick(lab: Lab) -> None:
    put(lab, lifetime_s=50)
    second = put(lab)
    tick(lab)
    lab.pass_time(60)
    assert lab.store.tick().released == ((second, "q"),)


def test_schedulers_hear_of_a_grouped_task_and_of_its_end(lab: Lab) -> None:
    ear = lab.hear(timers=True)
    id = put(lab)
    assert (ear.next().id, ear.rest()) == (id, [])
    (claim,) = claims(lab)
    end(lab, claim)
    wake = ear.next()
    assert (wake.kind, wake.id, wake.follow_up) == ("follow_up", id, True)


def test_many_groups_get_their_turns(lab: Lab) -> None:
    new = [lab.new(options={"group": f"g{n % 150}"}) for n in range(300)]
    lab.store.put(new)
    assert {id for id, _ in released(lab)} == {one.id for one in new[:150]}
