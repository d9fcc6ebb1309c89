"""Whatever is drawn, all promises hold."""

from __future__ import annotations

from random import SystemRandom
from typing import Final

import pytest

from tests.simulation.search import made_small, search

KNOWN: Final = 120
"""Seeds that each run plays, so that a change which breaks one of them is told from luck."""

FRESH: Final = 120
"""Seeds that no run has played before. Some seconds, both: `make simulate` has the time for more, and takes others."""

AT_ONCE: Final = 60


@pytest.mark.parametrize("first", range(0, KNOWN, AT_ONCE))
def test_every_acknowledged_put_ends_once_and_nothing_waits_in_vain(first: int) -> None:
    require_good(first)


@pytest.mark.parametrize("block", range(FRESH // AT_ONCE))
def test_the_same_by_seeds_that_nobody_has_seen(block: int) -> None:
    # Drawn here: what is collected must be the same in each process of a run.
    first = SystemRandom().getrandbits(31)
    print(f"block {block}: make simulate SEED={first} SEEDS={AT_ONCE}")  # shown when it fails, by an error of any kind
    require_good(first)


def require_good(first: int) -> None:
    failed = search(range(first, first + AT_ONCE))
    if failed is not None:
        pytest.fail(str(made_small(failed)), pytrace=False)
