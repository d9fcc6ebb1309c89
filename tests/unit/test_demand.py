"""The decision whether to claim now, and what."""

from __future__ import annotations

from bson import ObjectId
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamq.core.demand import (
    CLAIMS_AHEAD,
    MOST_A_CLAIM,
    ClaimHead,
    ClaimIds,
    Demand,
    Sleep,
    next_action,
    next_behind,
    wanted_spare,
)

IDS = tuple(ObjectId() for _ in range(1_000))
demands = st.builds(
    Demand,
    free=st.integers(-20, 20) | st.integers(0, 2_000),
    wanted_spare=st.integers(0, 20) | st.integers(0, 2_000),
    behind=st.booleans(),
    hints=st.integers(0, 25).map(lambda n: IDS[:n]) | st.integers(0, 1_000).map(lambda n: IDS[:n]),
    durable=st.booleans(),
)
few = settings(max_examples=20, deadline=None)


@few
@given(demands)
@example(Demand(2_000, 0, behind=False, hints=IDS))
def test_never_more_is_claimed_than_there_is_room_for_or_than_one_claim_takes(demand: Demand) -> None:
    action = next_action(demand)
    claimed = 0
    if isinstance(action, ClaimIds):
        claimed = len(action.ids)
    elif isinstance(action, ClaimHead):
        claimed = action.limit
    assert claimed <= max(0, demand.free + demand.wanted_spare)
    assert claimed <= MOST_A_CLAIM


@few
@given(demands)
def test_ids_are_claimed_only_when_all_of_them_can_start(demand: Demand) -> None:
    action = next_action(demand)
    if isinstance(action, ClaimIds):
        assert action.ids == demand.hints
        assert 0 < len(action.ids) <= demand.free
        assert not demand.behind
        assert action.durable == demand.durable


@few
@given(demands)
def test_what_is_claimed_beyond_the_free_slots_is_spare(demand: Demand) -> None:
    action = next_action(demand)
    if isinstance(action, ClaimHead):
        assert 0 <= action.spare <= action.limit
        assert action.limit - action.spare == min(action.limit, max(0, demand.free))


@few
@given(demands)
def test_it_sleeps_only_with_nothing_to_do_or_no_room(demand: Demand) -> None:
    if isinstance(next_action(demand), Sleep):
        room = demand.free + demand.wanted_spare
        too_little = demand.free <= 0 and room < demand.wanted_spare / 2
        assert room <= 0 or too_little or (not demand.behind and not demand.hints)


def test_an_idle_lane_claims_what_a_wake_named() -> None:
    assert next_action(Demand(2, 0, behind=False, hints=IDS[:2], durable=True)) == ClaimIds(IDS[:2], durable=True)


def test_more_wakes_than_free_slots_are_claimed_from_the_head() -> None:
    assert next_action(Demand(1, 3, behind=False, hints=IDS[:2])) == ClaimHead(limit=4, spare=3)


def test_a_lane_that_is_behind_claims_from_the_head_whatever_was_named() -> None:
    assert next_action(Demand(5, 0, behind=True, hints=IDS[:1])) == ClaimHead(limit=5, spare=0)


def test_tasks_that_wait_in_the_process_take_room() -> None:
    assert next_action(Demand(-2, 4, behind=True)) == ClaimHead(limit=2, spare=2)
    assert isinstance(next_action(Demand(-3, 3, behind=True)), Sleep)


def test_what_waits_in_the_process_is_filled_up_when_it_is_half_empty() -> None:
    assert next_action(Demand(-51, 100, behind=True)) == Sleep(left=50)
    assert next_action(Demand(-50, 100, behind=True)) == ClaimHead(limit=50, spare=50)
    assert next_action(Demand(0, 1, behind=True)) == ClaimHead(limit=1, spare=1)


def test_an_idle_slot_waits_for_no_more_to_be_wanted() -> None:
    assert next_action(Demand(1, 1_000, behind=True)) == ClaimHead(limit=500, spare=499)


def test_a_claim_is_worth_its_trips_when_it_takes_as_many_as_one_can() -> None:
    assert next_action(Demand(-1_500, 2_000, behind=True)) == ClaimHead(limit=500, spare=500)


def test_spare_is_what_is_finished_during_the_claims_ahead() -> None:
    assert wanted_spare(1_000.0, 0.01, cap=500) == 10 * CLAIMS_AHEAD
    assert wanted_spare(100_000.0, 0.005, cap=500) == 500
    assert wanted_spare(10.0, 0.005, cap=500) == 0
    assert wanted_spare(1e6, 0.1, cap=0) == 0


@few
@given(st.floats(0, 1e9), st.floats(0, 1), st.integers(0, 1_000))
def test_spare_is_never_negative_nor_over_its_cap(finished_per_s: float, claim_s: float, cap: int) -> None:
    assert 0 <= wanted_spare(finished_per_s, claim_s, cap=cap) <= cap


def test_claim_behind_another_is_not_sent_while_there_are_tasks_left_to_run() -> None:
    assert next_behind(Demand(0, 1_000, behind=False), 500, 0) is None


def test_claim_behind_another_takes_what_that_one_leaves_room_for() -> None:
    assert next_behind(Demand(64, 800, behind=False), 500, 64) == ClaimHead(limit=364, spare=364)


def test_claim_behind_another_is_for_the_slots_that_are_not_promised_to_it() -> None:
    assert next_behind(Demand(64, 1_000, behind=False), 500, 0) == ClaimHead(limit=500, spare=436)


def test_claim_behind_another_is_not_sent_for_little() -> None:
    """A claim of a few costs its trips all the same; what the other one obtains leaves more room when it is run."""
    assert next_behind(Demand(64, 800, behind=False), 500, 0) is not None
    assert next_behind(Demand(64, 600, behind=False), 500, 0) is None
