"""How long a fuzz test looks: a short, repeatable while in every run of the suite; FUZZ=100 times that, at random."""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, Phase, settings

TIMES: Final = float(os.environ.get("FUZZ", "1"))
"""`make fuzz` sets it. Above 1 every run tries other examples."""


def fuzzed(examples: int) -> settings:
    """Return the settings of a test that tries so many examples in the suite."""
    return settings(
        max_examples=max(1, round(examples * TIMES)),
        deadline=None,
        derandomize=TIMES == 1,
        database=None,
        phases=(Phase.explicit, Phase.generate),  # to shrink takes minutes where each example asks a server
        suppress_health_check=list(HealthCheck),
    )
