"""Planted bugs are found: a simulation that could find nothing would prove nothing."""

from __future__ import annotations

from typing import Final

import pytest

from tests.simulation.drawing import drawn
from tests.simulation.mutants import planted
from tests.simulation.plan import Call, Host, Plan, Recur
from tests.simulation.run import play
from tests.simulation.search import made_small, search

MOST_SEEDS: Final = 150
"""Within which each is found. Found by one seed in twenty or so, so that a change of what is drawn does not hide it."""

FOUND_AS: Final = {
    "fence_by_status": {"stale", "left", "lost", "repeated"},
    "scan_before_stream": {"late", "lost"},
    "settle_unseen": {"stale", "lost"},
    "settle_without_read_back": {"denied", "stale"},
    "lease_by_client_clock": {"repeated", "late", "lost", "left"},
    "slots_unseen": {"over"},
    "tokens_unspent": {"over"},
    "slot_not_moved_on": {"refired"},
    "slots_from_now": {"unfired"},
    "claimers_unheard": {"late"},
    "late_claims_begun": {"repeated"},
    "one_more_attempt": {"twice"},
}


@pytest.mark.parametrize("name", FOUND_AS)
def test_planted_bug_is_found_within_the_stated_number_of_seeds(name: str) -> None:
    with planted(name):
        seed = search(range(MOST_SEEDS))
        assert seed is not None
        assert {one.kind for one in play(drawn(seed)).verdict} & FOUND_AS[name]
    assert not play(drawn(seed)).verdict, "it is found because of the bug"


def test_fire_that_is_not_repeated_when_it_fails_is_found() -> None:
    recur = Recur("a", 1.0, until=15.0, missed="all", overlap=True)
    plan = Plan(1, (Host("w0", starts_at=0.2),), faults=(Call("w0", "fire", 3, "before"),), recurs=(recur,))
    assert not play(plan).verdict
    with planted("fires_not_repeated"):
        assert "late" in {one.kind for one in play(plan).verdict}


def test_failing_seed_is_made_small_and_told_with_how_to_repeat_it() -> None:
    with planted("settle_unseen"):
        seed = search(range(MOST_SEEDS))
        assert seed is not None
        found = made_small(seed)
    assert found.seen.verdict
    assert len(found.small.puts) <= 2
    assert len(found.small.faults) <= 2
    assert f"make simulate SEED={seed} SEEDS=1" in str(found)
