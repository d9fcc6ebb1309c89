"""Where the next claim of an intake begins, when much of its queue is for others."""

from __future__ import annotations

from typing import Any, cast

from bson import Timestamp

from streamq.core.claim import Past
from streamq.runtime.ahead import Ahead
from streamq.store.contract import Claimed

HERE, THERE = Past(0, Timestamp(1, 1)), Past(0, Timestamp(2, 1))
SOME = cast(Any, ("a claim",))


def nothing(past: Past | None = None) -> Claimed:
    return Claimed((), more=False, past=past)


def test_claims_begin_at_the_head_while_nothing_was_passed_over() -> None:
    ahead = Ahead()
    for _ in range(3):
        ahead.hear()
        assert ahead.begin() is None
        assert not ahead.note(nothing())


def test_a_look_goes_on_where_it_stopped_until_the_end_of_the_queue() -> None:
    ahead = Ahead()
    assert ahead.begin() is None
    assert ahead.note(nothing(HERE))
    assert ahead.begin() == HERE
    assert ahead.note(nothing(THERE))
    assert ahead.begin() == THERE
    assert not ahead.note(nothing())
    assert ahead.begin() is None


def looking() -> Ahead:
    """In the middle of a look, the last claim of which did not begin at the head."""
    ahead = Ahead()
    ahead.begin()
    ahead.note(nothing(HERE))
    assert ahead.begin() == HERE
    assert ahead.note(nothing(THERE))
    return ahead


def test_news_during_a_look_is_looked_for_at_the_head_every_other_time_and_the_look_goes_on() -> None:
    ahead = looking()
    ahead.hear()
    assert ahead.begin() is None
    assert ahead.note(Claimed(SOME, more=False))
    assert ahead.begin() == THERE
    assert ahead.note(nothing(THERE))
    assert ahead.begin() is None  # it found some there: there may be more
    assert ahead.note(nothing(HERE))
    assert ahead.begin() == THERE
    assert ahead.note(nothing(THERE))
    assert ahead.begin() == THERE


def test_what_was_heard_while_the_head_was_looked_at_is_looked_for_again() -> None:
    ahead = looking()
    ahead.hear()
    assert ahead.begin() is None
    ahead.hear()
    ahead.note(nothing())
    assert ahead.begin() == THERE
    ahead.note(nothing(THERE))
    assert ahead.begin() is None


def test_a_look_that_ends_is_followed_by_another_if_there_was_news() -> None:
    """What it told of may stand before the place where the look had been by then."""
    ahead = looking()
    ahead.hear()
    ahead.begin()
    ahead.note(nothing())
    assert ahead.begin() == THERE
    assert ahead.note(nothing())
    assert ahead.begin() is None
    assert not ahead.note(nothing())
