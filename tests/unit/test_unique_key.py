"""Unique keys: what may be one, and that two are told apart exactly when they differ."""

from __future__ import annotations

import enum
import math
from typing import Any

import bson
import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from streamq.core.options import options_of
from streamq.core.unique_key import (
    MOST_BYTES,
    MOST_DEPTH,
    UniqueKey,
    held_id,
    loaded_key,
    lock_again,
    lock_of,
    stored_key,
)
from streamq.errors import OptionInvalid

# Few letters, and those that the canonical form is written in: what collides does so here.
pieces = st.one_of(
    st.text("a1:;()sib\0é", max_size=4), st.binary(max_size=4), st.integers(), st.integers(-12, 12), st.just("True")
)
keys: st.SearchStrategy[Any] = st.recursive(pieces, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)


class Colour(enum.StrEnum):
    RED = "red"


@given(keys, keys)
def test_two_keys_have_equal_bytes_if_and_only_if_they_are_equal(one: UniqueKey, other: UniqueKey) -> None:
    assert (lock_of(one) == lock_of(other)) == (one == other and type(one) is type(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b"), ("ab",)),
        (1, "1"),
        ("1", b"1"),
        (("a",), "a"),
        ((), ""),
        ((("a",), "b"), ("a", ("b",))),
        (("a1:b",), ("a", "b")),
        (("1;", 2), (1, 2)),
        ("é", "e\u0301"),
        (12, (1, 2)),
    ],
)
def test_keys_that_look_alike_are_told_apart(one: UniqueKey, other: UniqueKey) -> None:
    assert lock_of(one) != lock_of(other)


@given(keys)
def test_a_stored_key_is_read_back_and_locks_as_before(key: UniqueKey) -> None:
    stored = bson.decode(bson.encode({"unique_key": stored_key(key)}))
    assert loaded_key(stored["unique_key"]) == key
    assert lock_again(stored) == lock_of(key)


def test_a_key_of_an_enum_is_its_plain_value() -> None:
    assert lock_of(Colour.RED) == lock_of("red")
    assert type(stored_key(Colour.RED)) is str


def test_a_task_without_a_key_locks_nothing_again() -> None:
    assert lock_again({"queue": "q"}) is None


@pytest.mark.parametrize(
    "value", [True, 1.0, ["a"], {"a": 1}, {"a"}, object(), bytearray(b"a"), ("a", None), ("a", (False,)), "\ud800"]
)
def test_a_value_that_is_no_key_is_refused_by_name(value: Any) -> None:
    with pytest.raises(OptionInvalid, match=r"^unique"):
        options_of({"unique": value})


@pytest.mark.parametrize(
    "value", ["x" * MOST_BYTES, b"x" * MOST_BYTES, ("x" * 600, "x" * 600), pytest.param(1 << 20_000, id="int")]
)
def test_a_key_that_is_too_long_is_refused_by_name(value: Any) -> None:
    with pytest.raises(OptionInvalid, match=r"^unique") as caught:
        options_of({"unique": value})
    assert len(str(caught.value)) < 400


def test_a_key_may_be_nested_only_so_deep() -> None:
    key: Any = "a"
    for _ in range(MOST_DEPTH):
        key = (key,)
    options_of({"unique": key})
    with pytest.raises(OptionInvalid, match=r"^unique.*deep"):
        options_of({"unique": (key,)})


@pytest.mark.parametrize("key", ["", 0, b"", ()])
def test_an_empty_key_is_a_key(key: UniqueKey) -> None:
    assert options_of({"unique": key}).unique == key


@pytest.mark.parametrize("unique_for_s", [0.001, 1, 86_400.0, math.inf])
def test_a_key_is_held_for_a_time_or_for_ever(unique_for_s: float) -> None:
    assert options_of({"unique": "a", "unique_for_s": unique_for_s}).unique_for_s == unique_for_s


@pytest.mark.parametrize("unique_for_s", [0, -1, -math.inf, math.nan, True, "1", 1e12])
def test_a_time_that_is_none_is_refused_by_name(unique_for_s: Any) -> None:
    with pytest.raises(OptionInvalid, match=r"^unique_for_s"):
        options_of({"unique": "a", "unique_for_s": unique_for_s})


@given(keys, keys)
def test_two_keys_that_outlive_their_tasks_are_held_under_different_names(one: UniqueKey, other: UniqueKey) -> None:
    same = one == other and type(one) is type(other)
    assert (held_id("q", stored_key(one)) == held_id("q", stored_key(other))) == same
    assert held_id("q", stored_key(one)) != held_id("q:", stored_key(other))


def test_a_task_whose_key_is_held_for_a_time_locks_nothing_again() -> None:
    assert lock_again({"queue": "q", "unique_key": "a", "unique_for_s": 5.0}) is None


@pytest.mark.parametrize(
    "given", [{"on_conflict": "raise"}, {"on_conflict": "ignore", "unique": "a"}, {"on_conflict": 1, "unique": "a"}]
)
def test_what_a_conflict_leads_to_is_refused_by_name_unless_it_can_be(given: Any) -> None:
    with pytest.raises(OptionInvalid, match=r"^on_conflict"):
        options_of(given)


@pytest.mark.parametrize("parents", ["after", "after_any"])
def test_a_task_that_waits_for_others_replaces_none(parents: Any) -> None:
    given: Any = {"unique": "a", "on_conflict": "replace", parents: [ObjectId()]}
    with pytest.raises(OptionInvalid, match=r"^on_conflict.*after"):
        options_of(given)
