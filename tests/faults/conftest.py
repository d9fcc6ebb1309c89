"""Apps on the session's server, each with a client of its own; and how far sweeps go."""

from __future__ import annotations

import pytest

from tests.faults.sweep import Sweep
from tests.integration.conftest import make_app, mongo

__all__ = ["make_app", "mongo"]


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> Sweep:
    """Some cases of each sweep, or as many as `--faults-cases` says."""
    return Sweep(request.config.getoption("--faults-cases"), request.config.getoption("--faults-seed"))
