"""Seeds that fail without a run, for the tests of those who play them: where a job of theirs can import it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final

BAD: Final = frozenset({1_070, 1_071, 1_190})


def played(seeds: Iterable[int]) -> Iterator[tuple[int, bool]]:
    """Fail with some seeds, the first of them after a while."""
    for seed in seeds:
        if seed == min(BAD):
            time.sleep(0.2)  # others are through with more by then
        yield seed, seed in BAD
