"""Standing by: when to look, what a look tells, and how much patience it leaves."""

from __future__ import annotations

import msgspec
import pytest
from bson import ObjectId

from streamq.core.rendezvous import MOST_PATIENCE, stand_by_s
from streamq.core.wake import Wake
from streamq.runtime.standing_by import MOST_AMONG, StandingBy

SECOND, LATER = 1, 4
MOST = 100


def wake(**more: object) -> Wake:
    return msgspec.structs.replace(Wake("ready", ObjectId(), "q", "note", is_new=True, is_plain=True), **more)


def ids(*wakes: Wake) -> list[ObjectId]:
    return [one.id for one in wakes if one.id is not None]


def after_looks_in_vain(count: int) -> StandingBy:
    """One that has looked so often for nothing."""
    standing_by = StandingBy(MOST)
    for number in range(count):
        standing_by.hear(wake(), LATER, number * 10.0)
        assert standing_by.seen(standing_by.waiting, [], number * 10.0 + 9) == []
    return standing_by


def test_look_tells_what_to_try_now_and_keeps_what_is_another_s_turn() -> None:
    standing_by = StandingBy(MOST)
    due, later, gone = wake(), wake(), wake()
    for one, place in ((due, SECOND), (later, LATER), (gone, SECOND)):
        standing_by.hear(one, place, 0.0)
    assert standing_by.next_look() == stand_by_s(SECOND)
    assert standing_by.seen(standing_by.waiting, ids(due, later), stand_by_s(SECOND)) == [due]
    assert list(standing_by.waiting) == ids(later)
    assert standing_by.next_look() == stand_by_s(LATER)


def test_what_is_heard_twice_takes_one_place_and_past_the_bound_nothing_is_taken() -> None:
    standing_by = StandingBy(1)
    one = wake()
    assert standing_by.hear(one, SECOND, 1.0) is not None
    assert standing_by.hear(one, SECOND, 2.0) is not None
    assert standing_by.hear(wake(), SECOND, 1.0) is None


def test_trio_is_told_only_of_what_it_would_look_at_too_late() -> None:
    standing_by = StandingBy(MOST)
    assert standing_by.hear(wake(), LATER, 0.0)  # no look is planned
    standing_by.next_look()
    assert standing_by.hear(wake(), LATER, 0.001) is False
    assert standing_by.hear(wake(), SECOND, 0.001)


def test_what_is_heard_during_a_look_waits_for_the_next() -> None:
    standing_by = StandingBy(MOST)
    standing_by.hear(wake(), SECOND, 0.0)
    asked = standing_by.waiting
    heard = wake()
    standing_by.hear(heard, SECOND, 0.0)
    standing_by.seen(asked, [], 1.0)
    assert list(standing_by.waiting) == ids(heard)


def test_task_that_is_told_of_again_during_a_look_is_not_forgotten_by_its_answer() -> None:
    """Taken before the answer, given back behind it: the second word is the only one of that."""
    standing_by = StandingBy(MOST)
    one = wake()
    standing_by.hear(one, SECOND, 0.0)
    asked = standing_by.waiting
    standing_by.hear(one, SECOND, 1.0)
    assert standing_by.seen(asked, [], 1.0) == []
    assert list(standing_by.waiting) == ids(one)


def test_looks_in_vain_make_later_ones_later() -> None:
    standing_by = after_looks_in_vain(20)
    standing_by.hear(wake(), LATER, 0.0)
    assert standing_by.next_look() == stand_by_s(LATER, MOST_PATIENCE)


@pytest.mark.parametrize(("obtained", "patience"), [(True, 2.0), (False, 8.0)])
def test_task_that_is_obtained_makes_them_sooner_and_one_that_was_taken_meanwhile_does_not(
    obtained: bool, patience: float
) -> None:
    standing_by = after_looks_in_vain(20)
    late = wake()
    standing_by.hear(late, LATER, 0.0)
    assert standing_by.seen(standing_by.waiting, ids(late), 1.0) == [late]
    standing_by.tried(ids(late), ids(late) if obtained else [])
    standing_by.hear(wake(), LATER, 0.0)
    assert standing_by.next_look() == stand_by_s(LATER, patience)


def test_claims_of_what_was_its_own_to_try_leave_the_patience_as_it_was() -> None:
    standing_by = after_looks_in_vain(20)
    own = wake()
    standing_by.tried(ids(own), ids(own))
    standing_by.hear(wake(), LATER, 0.0)
    assert standing_by.next_look() == stand_by_s(LATER, MOST_PATIENCE)


def test_one_claim_is_to_take_the_first_of_what_came_before_and_the_new_one() -> None:
    standing_by = StandingBy(MOST)
    before, new = wake(), wake()
    standing_by.hear(before, LATER, 0.0)
    assert standing_by.with_first_of(new) == ((before.id, new.id), True)
    standing_by.hear(wake(is_plain=False), LATER, 0.0)
    first = standing_by.with_first_of(new)
    assert first is not None
    assert not first[1]


@pytest.mark.parametrize("more", [{"durable": True}, {"is_new": False}])
def test_one_claim_is_not_enough_where_some_must_be_claimed_with_majority_or_may_have_to(more: dict[str, bool]) -> None:
    standing_by = StandingBy(MOST)
    standing_by.hear(wake(**more), LATER, 0.0)
    assert standing_by.with_first_of(wake()) is None
    assert StandingBy(MOST).with_first_of(wake(durable=True)) is None


def test_one_claim_is_not_enough_for_many() -> None:
    standing_by = StandingBy(MOST)
    for _ in range(MOST_AMONG):
        standing_by.hear(wake(), LATER, 0.0)
    assert standing_by.with_first_of(wake()) is None
