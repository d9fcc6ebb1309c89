"""Claiming from a queue with limits looks several times: what a look has obtained outlives an error of the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from bson import ObjectId

from streamq.core.claim import Ask
from streamq.core.limits import Limits, Rate
from streamq.core.moves.claim import Place
from streamq.errors import ClaimUnknown, StoreError, StoreUnavailable
from streamq.store import limiting
from streamq.store.limiting import Found, PutOff, Tokens

FIRST, SECOND = ObjectId(), ObjectId()
ASK = Ask("q", 5, b"claim", 30.0, "worker")


class OneALook:
    """A shelf whose head shows one task at a time; step `fails` of it fails, from its second time on."""

    def __init__(self, fails: str, error: StoreError, before: int = 0) -> None:
        self._fails = fails
        self._error = error
        self._asked = [fails] * before
        self._there = [FIRST, SECOND]

    def _ask(self, step: str) -> None:
        self._asked.append(step)
        if step == self._fails and self._asked.count(step) > 1:
            raise self._error

    def head(self, limit: int) -> Sequence[Found]:
        self._ask("head")
        return [{"_id": id, "attempt": 0} for id in self._there[:1]]

    def slots(self) -> Sequence[int]:
        self._ask("slots")
        return [0, 1]  # so that one look is for one task

    def key_slots(self) -> Mapping[str, Sequence[int]]:
        return {}

    def unhold(self, limit: int, taken: Mapping[str, Sequence[int]]) -> None: ...

    def tokens(self, bucket: str, rate: Rate, wanted: int) -> Tokens:
        self._ask("tokens")
        return Tokens(wanted, 0.0)

    def give_back(self, bucket: str, rate: Rate, unused: int) -> None:
        self._ask("give_back")

    def put_off(self, tasks: Sequence[PutOff]) -> None: ...

    def take(self, chosen: Sequence[tuple[Found, Place]]) -> set[Any]:
        self._ask("take")
        ids = [found["_id"] for found, _ in chosen]
        self._there = [id for id in self._there if id not in ids]
        return set(ids)


class TwoALook(OneALook):
    """One whose head shows both, of which somebody else is quicker to claim the second."""

    def head(self, limit: int) -> Sequence[Found]:
        return [{"_id": id, "attempt": 0} for id in self._there]

    def take(self, chosen: Sequence[tuple[Found, Place]]) -> set[Any]:
        return super().take(chosen) - {SECOND}


LIMITS = Limits(running=3, rate=Rate(10, 1.0))


@pytest.mark.parametrize("step", ["slots", "head", "tokens"])
def test_what_a_look_has_obtained_is_answered_although_the_next_look_fails(step: str) -> None:
    taken = limiting.claim(OneALook(step, StoreUnavailable("no server")), ASK, LIMITS)
    assert [found["_id"] for found in taken.found] == [FIRST]
    assert taken.more


def test_what_was_obtained_is_answered_although_its_unused_tokens_cannot_be_given_back() -> None:
    shelf = TwoALook("give_back", StoreUnavailable("no server"), before=1)
    taken = limiting.claim(shelf, ASK, Limits(rate=Rate(10, 1.0)))
    assert [found["_id"] for found in taken.found] == [FIRST]


def test_unknown_outcome_of_a_later_look_names_what_was_obtained_before_too() -> None:
    """One claim, one answer: what is not told as obtained must be given back with the rest."""
    unknown = ClaimUnknown("q", b"claim", (SECOND,), 10.0, "no reply")
    with pytest.raises(ClaimUnknown) as raised:
        limiting.claim(OneALook("take", unknown), ASK, LIMITS)
    assert set(raised.value.ids) == {FIRST, SECOND}
    assert (raised.value.settles_in_s, raised.value.reason) == (10.0, "no reply")


def test_error_of_the_first_look_is_raised() -> None:
    with pytest.raises(StoreUnavailable):
        limiting.claim(OneALook("head", StoreUnavailable("no server"), before=1), ASK, LIMITS)
