"""Tasks whose lease has ended again and again come back apart from each other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from bson.decimal128 import Decimal128

from streamq.core.moves.take_back import MOST_APART_S, PARTS, put_off_s

SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def lost(number: int = 1, *, attempt: Any = 2, lasted_s: float = 32.0, **more: Any) -> dict[str, Any]:
    """A task of several that were put one after the other, its lease ended."""
    return {
        "_id": ObjectId(bytes(11) + bytes([number])),
        "attempt": attempt,
        "max_attempts": 5,
        "started_at": SINCE,
        "lease_until": SINCE + timedelta(seconds=lasted_s),
        **more,
    }


@pytest.mark.parametrize("attempt", range(2, 12))
@pytest.mark.parametrize("first", [0, 7, 200, 240])
def test_a_crowd_comes_back_spread_over_as_long_as_its_claim_lasted(attempt: int, first: int) -> None:
    crowd = [put_off_s(lost((first + number) % 256, attempt=attempt, max_attempts=20)) for number in range(PARTS)]
    assert len(set(crowd)) > PARTS / 2
    assert 0 <= min(crowd) < 8 < 24 < max(crowd) < 32


def test_neighbours_are_others_at_the_next_attempt() -> None:
    def gaps(attempt: int) -> list[float]:
        of = [put_off_s(lost(number, attempt=attempt, max_attempts=20)) for number in range(PARTS)]
        return [one - of[0] for one in of]

    assert gaps(2) != gaps(3) != gaps(4)


def test_what_was_lost_once_comes_back_at_once() -> None:
    assert put_off_s(lost(attempt=1)) == 0


def test_what_has_one_attempt_left_comes_back_apart_the_first_time_too() -> None:
    assert put_off_s(lost(attempt=1, max_attempts=2)) > 0


def test_nothing_is_put_off_for_long() -> None:
    assert 0 < put_off_s(lost(lasted_s=86_400.0)) < MOST_APART_S


@pytest.mark.parametrize(
    "odd",
    [
        {"total_until": SINCE},
        {"_id": "text"},
        {"started_at": "text"},
        {"lease_until": None},
        {"attempt": Decimal128("2")},
        {"attempt": float("nan")},
        {"max_attempts": "text"},
        {"started_at": SINCE + timedelta(days=1)},
    ],
)
def test_what_has_an_end_by_time_or_tells_no_moment_comes_back_at_once(odd: dict[str, Any]) -> None:
    assert put_off_s(lost() | odd) == 0
