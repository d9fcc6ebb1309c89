"""Whatever is drawn, all promises hold."""

from __future__ import annotations

import pytest

from tests.simulation.search import made_small, search

SEEDS = 240
"""Some seconds. `make simulate` has the time for more, and takes others."""


@pytest.mark.parametrize("first", range(0, SEEDS, 60))
def test_every_acknowledged_put_ends_once_and_nothing_waits_in_vain(first: int) -> None:
    failed = search(range(first, first + 60))
    if failed is not None:
        pytest.fail(str(made_small(failed)), pytrace=False)
