"""Which queue a free slot of a pool is for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamq import OptionInvalid, Shared
from streamq.core.sharing import charged, first_turns, shares

WEIGHED = Shared.by_weight({"high": 5, "low": 1}, slots=12)
ORDERED = Shared.in_order(["first", "second", "third"], slots=4)


def served(shared: Shared, rounds: int, free: int, wanting: Callable[[int], list[bool]]) -> list[list[int]]:
    """Let every share be used up, `rounds` times."""
    turns = first_turns(shared)
    given_out = []
    for number in range(rounds):
        share = shares(shared, turns, wanting(number), free)
        for place, count in enumerate(share):
            turns = charged(shared, turns, place, count)
        given_out.append(share)
    return given_out


@pytest.mark.parametrize("free", [1, 2, 5, 12])
def test_weights_are_kept_however_many_slots_are_free_at_a_time(free: int) -> None:
    share = served(WEIGHED, 60 // free, free, lambda _: [True, True])
    assert [sum(one) for one in zip(*share, strict=True)] == [50, 10]


def test_a_queue_without_tasks_leaves_its_slots_to_the_others() -> None:
    assert shares(WEIGHED, first_turns(WEIGHED), [False, True], 12) == [0, 12]
    assert shares(WEIGHED, first_turns(WEIGHED), [False, False], 12) == [0, 0]
    assert shares(WEIGHED, first_turns(WEIGHED), [True, True], -3) == [0, 0]


def test_a_queue_that_was_idle_saves_up_no_turns() -> None:
    share = served(WEIGHED, 160, 1, lambda number: [True, number >= 100])
    later = share[100:]
    assert [sum(one) for one in zip(*later, strict=True)] == [50, 10]


def test_slots_given_back_unused_are_not_held_against_a_queue() -> None:
    turns = first_turns(WEIGHED)
    assert charged(WEIGHED, charged(WEIGHED, turns, 1, 7), 1, -7).passes == turns.passes


@settings(max_examples=50, deadline=None)
@given(
    weights=st.lists(st.integers(1, 1_000), min_size=2, max_size=5),
    wanting=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=30),
    free=st.integers(1, 20),
)
def test_a_queue_that_wants_is_never_left_out_for_ever(
    weights: list[int], wanting: list[list[bool]], free: int
) -> None:
    """Whatever the others do, the first queue waits for at most what they may catch up on a batch of its own."""
    shared = Shared.by_weight({f"q{place}": weight for place, weight in enumerate(weights)}, slots=20)
    bound = (free + 1) * sum(weights) // weights[0] + len(weights) + 1
    turns, waited = first_turns(shared), 0
    for number in range(min(300, bound * 3)):
        others = wanting[number % len(wanting)][1 : len(weights)]
        share = shares(shared, turns, [True, *others], free)
        for place, count in enumerate(share):
            turns = charged(shared, turns, place, count)
        waited = 0 if share[0] else waited + free
        assert waited <= bound + free


def test_in_order_the_first_that_wants_gets_all() -> None:
    turns = first_turns(ORDERED)
    assert shares(ORDERED, turns, [True, True, True], 4) == [4, 0, 0]
    assert shares(ORDERED, charged(ORDERED, turns, 0, 1_000), [True, True, True], 4) == [4, 0, 0]
    assert shares(ORDERED, turns, [False, True, True], 4) == [0, 4, 0]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Shared.by_weight({}, slots=1), "weights"),
        (lambda: Shared.by_weight(["a"], slots=1), "weights"),  # type: ignore[arg-type]
        (lambda: Shared.by_weight({"a": 0}, slots=1), "weights['a']"),
        (lambda: Shared.by_weight({"a": 1.5}, slots=1), "weights['a']"),  # type: ignore[dict-item]
        (lambda: Shared.by_weight({"a b": 1}, slots=1), "queue"),
        (lambda: Shared.by_weight({"a": 1}, slots=0), "slots"),
        (lambda: Shared.in_order("ab", slots=1), "queues"),
        (lambda: Shared.in_order([], slots=1), "queues"),
        (lambda: Shared.in_order(["a", "b", "a"], slots=1), "queues"),
        (lambda: Shared.in_order(["a"], slots=True), "slots"),
    ],
)
def test_what_is_no_pool_is_refused_by_name(make: Callable[[], object], named: str) -> None:
    with pytest.raises(OptionInvalid) as caught:
        make()
    assert caught.value.option == named
