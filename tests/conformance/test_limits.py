"""Limits of a queue, by the contract: which ready tasks a claim takes, and what becomes of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from streamq.core.limits import Limits, Rate

if TYPE_CHECKING:
    from streamq.core.claim import Claim
    from tests.conformance.conftest import Lab

SLOW = Rate(1, per_s=1_000, burst=2)


def put(lab: Lab, count: int, key: str | None = None) -> list[ObjectId]:
    options: Any = {} if key is None else {"rate_key": key}
    return [lab.put(options=options) for _ in range(count)]


def ids(claims: list[Claim]) -> list[ObjectId]:
    return [claim.id for claim in claims]


def test_rate_lets_a_burst_start_and_leaves_the_rest_ready(lab: Lab) -> None:
    tasks = put(lab, 4)
    taken = lab.store.claim(lab.ask(10, limits=Limits(rate=SLOW)))
    assert ids(list(taken.claims)) == tasks[:2]
    assert taken.again_s == pytest.approx(1_000, abs=5)
    assert not taken.more
    assert lab.store.counts() == {"q": {"ready": 2, "running": 2}}


def test_rate_is_not_used_up_by_a_claim_that_finds_nothing(lab: Lab) -> None:
    for _ in range(5):
        assert lab.claim(limits=Limits(rate=SLOW)) == []
    put(lab, 4)
    assert len(lab.claim(limits=Limits(rate=SLOW))) == 2


def test_rate_of_a_key_holds_its_tasks_up_and_no_others(lab: Lab) -> None:
    first = put(lab, 3, "k")
    others = put(lab, 1, "l") + put(lab, 1)
    assert ids(lab.claim(limits=Limits(key_rate=Rate(1, per_s=100)))) == [first[0], *others]
    late = [lab.stored(id) for id in first[1:]]
    assert [one["status"] for one in late] == ["delayed", "delayed"]
    due_in_s = [(one["due_at"] - lab.store.now()).total_seconds() for one in late]
    assert due_in_s == pytest.approx([100, 200], abs=5)


def test_task_held_up_by_the_rate_of_its_key_keeps_its_place(lab: Lab) -> None:
    first = put(lab, 2, "k")
    limits = Limits(key_rate=Rate(1, per_s=100))
    (claim,) = lab.claim(1, limits=limits)
    lab.settle(claim, "succeed")
    assert lab.claim(1, limits=limits) == []
    later = put(lab, 1)
    lab.pass_time(101)
    lab.store.tick()
    assert ids(lab.claim(limits=limits)) == [first[1], *later]


def test_running_limit_is_not_passed_and_the_rest_stays_ready(lab: Lab) -> None:
    put(lab, 5)
    limits = Limits(running=3)
    assert len(lab.claim(2, limits=limits)) == 2
    assert len(lab.claim(2, limits=limits)) == 1
    assert lab.claim(2, limits=limits) == []
    assert lab.store.counts() == {"q": {"ready": 2, "running": 3}}


def test_running_limit_that_was_lowered_counts_what_runs(lab: Lab) -> None:
    put(lab, 5)
    lab.claim(3, limits=Limits(running=3))
    assert lab.claim(limits=Limits(running=2)) == []


@pytest.mark.parametrize("move", ["succeed", "fail", "retry", "release"])
def test_slot_is_free_again_when_its_task_is_settled_and_the_stream_tells_it(lab: Lab, move: Any) -> None:
    put(lab, 2)
    limits = Limits(running=1)
    (claim,) = lab.claim(limits=limits)
    ear = lab.hear("q")
    settlement = lab.settlement(claim, move, keep_s=60.0, frees=claim.has_slot)
    assert lab.store.settle([settlement]) == ["settled"]
    assert ear.next().freed_in == "q"
    assert len(lab.claim(limits=limits)) == 1


def test_slot_is_free_again_when_a_lease_has_ended(lab: Lab) -> None:
    put(lab, 2)
    limits = Limits(running=1)
    lab.claim(limits=limits)
    ear = lab.hear("q")
    lab.pass_time(31)
    lab.store.tick()
    assert ear.next().freed_in == "q"
    assert len(lab.claim(limits=limits)) == 1


def test_slot_of_a_task_that_is_deleted_at_its_success_is_told_of_too(lab: Lab) -> None:
    put(lab, 1)
    (claim,) = lab.claim(limits=Limits(running=1))
    ear = lab.hear("q")
    assert lab.store.settle([lab.settlement(claim, "succeed", keep_s=0.0, frees=True)]) == ["settled"]
    assert ear.next().freed_in == "q"
    assert lab.stored(claim.id)["status"] == "succeeded"


def test_running_limit_of_a_key_holds_its_tasks_up_and_no_others(lab: Lab) -> None:
    first = put(lab, 3, "k")
    others = put(lab, 1, "l") + put(lab, 1)
    limits = Limits(key_running=1)
    assert ids(lab.claim(limits=limits)) == [first[0], *others]
    assert [lab.stored(id)["held_up_by"] for id in first[1:]] == ["k", "k"]


def test_task_held_up_by_its_key_is_claimed_when_a_slot_of_the_key_is_free(lab: Lab) -> None:
    first = put(lab, 3, "k")
    limits = Limits(key_running=1)
    (claim,) = lab.claim(limits=limits)
    put(lab, 1, "l")
    lab.store.settle([lab.settlement(claim, "succeed", frees=True)])
    assert first[1] in ids(lab.claim(limits=limits))
    assert "held_up_by" not in lab.stored(first[1])
    assert lab.stored(first[2])["held_up_by"] == "k"


def test_task_held_up_by_its_key_comes_back_by_itself_when_nobody_knows_the_limit(lab: Lab) -> None:
    first = put(lab, 2, "k")
    lab.claim(limits=Limits(key_running=1))
    lab.pass_time(301)
    lab.store.tick()
    assert first[1] in ids(lab.claim())
    assert "held_up_by" not in lab.stored(first[1])


def test_many_tasks_of_one_key_do_not_hide_those_behind_them(lab: Lab) -> None:
    put(lab, 25, "k")
    (other,) = put(lab, 1, "l")
    assert other in ids(lab.claim(3, limits=Limits(key_running=1)))


def test_limits_of_queue_and_key_hold_together(lab: Lab) -> None:
    for key in "abc":
        put(lab, 3, key)
    limits = Limits(rate=Rate(2, per_s=1_000), running=5, key_rate=Rate(1, per_s=1_000), key_running=1)
    claims = lab.claim(limits=limits)
    assert len({lab.stored(claim.id)["rate_key"] for claim in claims}) == len(claims) == 2
    # The third key's token was given back: the queue had none.
    assert len(lab.claim(limits=Limits(key_rate=Rate(1, per_s=1_000)))) == 1


def test_claim_without_limits_takes_no_slot(lab: Lab) -> None:
    put(lab, 1, "k")
    (claim,) = lab.claim()
    assert not claim.has_slot
    assert lab.stored(claim.id).keys().isdisjoint({"slot", "key_slot"})
