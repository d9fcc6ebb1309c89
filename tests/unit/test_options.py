"""The door: what an option may be, and what is said when it is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from streamq.core import options
from streamq.core.new_task import PutReply
from streamq.core.options import Options, PutOptions, options_of, require_count, require_queue
from streamq.core.priority import Priority
from streamq.core.retry import MAX_DELAY_S
from streamq.errors import OptionInvalid

AT = datetime(2030, 1, 1, tzinfo=UTC)
HUGE = 10**400


SECONDS_BAD: list[Any] = [-1, -1e-9, math.nan, math.inf, MAX_DELAY_S + 1, HUGE, True, "5", timedelta(seconds=5), []]
SECONDS_GOOD: list[Any] = [0, 0.0, 5, 1.5, MAX_DELAY_S]
PARENTS_BAD: list[Any] = [
    *(ObjectId(), PutReply(ObjectId()), "6b02f121262c44006405a12d", ["6b02f121262c44006405a12d"], [None], {}, 1),
    *([ObjectId()] * 10_001, iter([ObjectId()])),
]
PARENTS_GOOD: list[Any] = [(), (ObjectId(),), (ObjectId(), ObjectId())]
INSTANTS_BAD: list[Any] = [
    *(datetime(2030, 1, 1), 1e9, "2030-01-01", AT.date()),
    datetime.max.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
]
INSTANTS_GOOD: list[Any] = [AT, datetime(1960, 1, 1, tzinfo=UTC), AT.astimezone(timezone(timedelta(hours=5)))]
BAD: dict[str, list[Any]] = {
    "delay_s": SECONDS_BAD,
    "keep_s": SECONDS_BAD,
    "keep_failed_s": SECONDS_BAD,
    "rate_key": ["", "x" * 201, "a\0b", "\ud800", 7],
    "total_timeout_s": [0, -1, math.nan, -math.inf, MAX_DELAY_S + 1, HUGE, True, "5", timedelta(seconds=5), []],
    "expires_in_s": [0, -1, math.nan, -math.inf, MAX_DELAY_S + 1, HUGE, True, "5", timedelta(seconds=5), []],
    "lifetime_s": [0, -1, math.nan, math.inf, MAX_DELAY_S + 1, HUGE, True, "5", timedelta(seconds=5), []],
    "expires_at": INSTANTS_BAD,
    "tag": ["", "x" * 201, "a\0b", "\ud800", 5, b"a", ["a"], {"$gt": ""}],
    "at": INSTANTS_BAD,
    "priority": [2**31, -(2**31) - 1, 1.0, True, "1"],
    "max_attempts": [0, -1, 1_000_001, 1.5, True, "1"],
    "id": ["6b02f121262c44006405a12d", b"x" * 12, 5],
    "unique": [True, 1.5, ["a"], {}, ("a", None), "\ud800", "x" * 2_000],
    "unique_for_s": [5, 0, -1, True, "5", math.nan, MAX_DELAY_S + 1],  # the first for want of a key
    "on_conflict": ["existing", "ignore", True],  # the first for want of a key
    "after": PARENTS_BAD,
    "after_any": PARENTS_BAD,
    "on_parent_failure": ["skip", "", True, ["run"]],
    "missing_parent": ["ignore", False],
    "group": ["", "x" * 201, 1, True, "\ud800"],
    "headers": [
        *([], "a", {str(n): "" for n in range(33)}),
        *({1: "a"}, {"a": 1}, {"a": None}, {"a": b""}, {"k" * 101: ""}, {"a": "v" * 1_001}),
        *({"a\0": ""}, {"\ud800": ""}, {"a": "\udfff"}),
    ],
}
GOOD: dict[str, list[Any]] = {
    "delay_s": SECONDS_GOOD,
    "keep_s": SECONDS_GOOD,
    "keep_failed_s": SECONDS_GOOD,
    "rate_key": ["a", "$a.b ä", "x" * 200],
    "total_timeout_s": [1e-9, 5, math.inf, MAX_DELAY_S],
    "expires_in_s": [1e-9, 5, math.inf, MAX_DELAY_S],
    "lifetime_s": [1e-9, 5, MAX_DELAY_S],
    "expires_at": INSTANTS_GOOD,
    "tag": ["a", "$a.b ä\n", "x" * 200],
    "at": INSTANTS_GOOD,
    "priority": [0, 2**31 - 1, -(2**31), *Priority],
    "max_attempts": [1, 1_000_000],
    "id": [ObjectId()],
    "unique": ["a", 1, b"a", ("a", (1, b"a")), "", ()],
    "unique_for_s": [],
    "on_conflict": [],
    "after": PARENTS_GOOD,
    "after_any": PARENTS_GOOD,
    "on_parent_failure": ["cancel", "run", "fail"],
    "missing_parent": ["error", "satisfied"],
    "group": ["customer-7", "$a", "x" * 200],
    "headers": [{}, {"$a.b": "\0", "": ""}, {"k" * 100: "v" * 1_000}],
}


@pytest.mark.parametrize("option", Options.__struct_fields__)
def test_a_bad_value_is_refused_naming_its_parameter(option: str) -> None:
    for value in BAD[option]:
        with pytest.raises(OptionInvalid, match=option) as caught:
            options_of({option: value})  # type: ignore[misc]
        assert caught.value.option.startswith(option), value


@pytest.mark.parametrize("option", Options.__struct_fields__)
def test_a_good_value_is_kept(option: str) -> None:
    for value in [*GOOD[option], None]:
        assert getattr(options_of({option: value}), option) == value  # type: ignore[misc]


@pytest.mark.parametrize("option", ["after", "after_any"])
def test_parents_are_named_by_whatever_has_their_id_each_once(option: str) -> None:
    reply, id = PutReply(ObjectId()), ObjectId()
    options = options_of({option: [reply, id, reply.id]})  # type: ignore[misc]
    assert getattr(options, option) == options.parents == (reply.id, id)
    assert set(options_of({option: {id}}).parents) == {id}  # type: ignore[misc]


def test_a_task_that_waits_for_others_takes_nobodys_place() -> None:
    with pytest.raises(OptionInvalid, match="on_conflict"):
        Options(unique="a", on_conflict="replace", after=[ObjectId()])
    with pytest.raises(OptionInvalid, match="on_conflict"):
        Options(unique="a", on_conflict="replace", group="g")


def test_an_instant_and_a_delay_together_are_refused() -> None:
    with pytest.raises(OptionInvalid, match="either at or delay_s"):
        Options(delay_s=0, at=AT)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"expires_in_s": 5, "expires_at": AT}, "either expires_at or expires_in_s"),
        ({"expires_in_s": 5, "delay_s": 5}, r"expires_in_s=5.* more seconds than delay_s=5"),
        ({"lifetime_s": 4, "delay_s": 5.5}, r"lifetime_s=4.* more seconds than delay_s=5\.5"),
        ({"expires_at": AT, "at": AT}, "expires_at=.* an instant after at="),
    ],
)
def test_an_end_that_leaves_no_time_to_start_is_refused(given: PutOptions, names: str) -> None:
    with pytest.raises(OptionInvalid, match=names):
        options_of(given)


def test_an_end_after_the_delay_is_taken() -> None:
    Options(delay_s=5, expires_in_s=6, lifetime_s=7)
    Options(at=AT, expires_at=AT + timedelta(seconds=1))
    Options(delay_s=5, expires_in_s=math.inf)


@pytest.mark.parametrize(
    ("given_name", "near"), [("delay", "delay_s"), ("prioritty", "priority"), ("header", "headers")]
)
def test_an_unknown_option_is_refused_and_a_near_one_suggested(given_name: str, near: str) -> None:
    with pytest.raises(OptionInvalid, match=rf"did you mean {near}\?") as caught:
        options_of({given_name: 1})  # type: ignore[misc]
    assert caught.value.option == given_name


def test_an_option_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(OptionInvalid) as caught:
        options_of({"xyzzy": 1})  # type: ignore[typeddict-unknown-key]
    assert "did you mean" not in str(caught.value)
    assert "delay_s" in str(caught.value)


@pytest.mark.parametrize("name", ["a", "A.b_c:d/e-9", "x" * 200])
def test_a_queues_name_is_plain(name: str) -> None:
    assert require_queue(name) == name


@pytest.mark.parametrize("name", ["", "x" * 201, "a b", "$a", "a\n", "a\0", "ä", None, 5, b"a", {"$gt": ""}])
def test_what_is_no_queues_name_is_refused(name: Any) -> None:
    with pytest.raises(OptionInvalid, match="queue"):
        require_queue(name)


@pytest.mark.parametrize("value", [0, 11, 1.0, True, None, "1", math.nan])
def test_a_count_out_of_range_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(OptionInvalid, match="slots"):
        require_count(value, "slots", most=10)
    assert require_count(10, "slots", most=10) == 10


@pytest.mark.parametrize("value", [0.9, 86_401, math.nan, True, None, "5", HUGE])
def test_a_lease_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(OptionInvalid, match="lease_s"):
        options.require_lease_s(value)


@pytest.mark.parametrize("value", [0, -1, math.nan, True, "5", HUGE])
def test_a_time_limit_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(OptionInvalid, match="timeout_s"):
        options.require_timeout_s(value)


def test_no_time_limit_can_be_said_in_two_ways() -> None:
    assert options.require_timeout_s(None) is None
    assert options.require_timeout_s(math.inf) == math.inf


DOORS: list[Callable[[Any], object]] = [
    options.require_queue,
    options.require_delay_s,
    options.require_keep_s,
    options.require_lease_s,
    options.require_timeout_s,
    options.require_priority,
    options.require_headers,
    lambda value: options.require_text("tag", value),
    lambda value: options.require_instant("at", value),
    lambda value: options.require_count(value, "n"),
]
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(HUGE),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.datetimes(timezones=st.none() | st.just(UTC)),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3) | st.integers(), st.text(max_size=3) | st.none(), max_size=3),
)


def test_header_whose_name_cannot_be_shown_is_refused_as_any_other() -> None:
    with pytest.raises(OptionInvalid, match=r"headers\[<int>\]"):
        options.require_headers({10**5_000: "x"})  # more digits than Python prints


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(DOORS), anything)
def test_anything_at_all_is_taken_or_refused_as_an_option(door: Callable[[Any], object], value: Any) -> None:
    try:
        door(value)
    except OptionInvalid:
        return
