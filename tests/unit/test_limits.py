"""Limits as values: what is refused, and which slots are free."""

from __future__ import annotations

from typing import Any

import pytest

from streamq.core.limits import Limits, Rate, free_slots, key_slot, slot_of_key, waits_s
from streamq.errors import OptionInvalid


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"count": 0}, "Rate.count"),
        ({"count": 1.5}, "Rate.count"),
        ({"count": True}, "Rate.count"),
        ({"count": 1, "per_s": 0}, "Rate.per_s"),
        ({"count": 1, "per_s": float("nan")}, "Rate.per_s"),
        ({"count": 1, "burst": 0}, "Rate.burst"),
    ],
)
def test_rate_of_the_wrong_kind_is_refused_by_name(given: Any, named: str) -> None:
    with pytest.raises(OptionInvalid) as caught:
        Rate(**given)
    assert caught.value.option == named


@pytest.mark.parametrize(
    ("given", "named"),
    [({}, "limits"), ({"rate": 10}, "rate"), ({"running": 0}, "running"), ({"key_running": 10_000}, "key_running")],
)
def test_limits_of_the_wrong_kind_are_refused_by_name(given: Any, named: str) -> None:
    with pytest.raises(OptionInvalid) as caught:
        Limits(**given)
    assert caught.value.option == named


def test_free_slots_are_those_nobody_has_and_no_more_than_the_limit_leaves() -> None:
    assert free_slots(4, [1, 3]) == [0, 2]
    assert free_slots(2, [5, 6]) == []
    assert free_slots(3, [7]) == [0, 1]


@pytest.mark.parametrize("key", ["a", "1:2", ":", "x:y:z"])
def test_key_slot_is_read_back_whatever_the_key_holds(key: str) -> None:
    assert slot_of_key(key_slot(key, 3)) == (3, key)


def test_tasks_without_a_token_wait_one_after_the_other() -> None:
    assert list(waits_s(Rate(1, per_s=10), 0.5, 3)) == [5, 15, 25]
