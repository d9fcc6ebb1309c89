"""Apps on the session's server, each with a client of its own; and how far sweeps go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import Databases, Mongo
from tests.faults.orders import taken
from tests.faults.sweep import Sweep
from tests.integration.conftest import make_app, mongo

__all__ = ["make_app", "mongo"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.open("which commands are struck has nothing to do with who sends them"))


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> Sweep:
    """Some cases of each sweep, or as many as `--faults-cases` says."""
    option = request.config.getoption
    return Sweep(option("--faults-cases"), option("--faults-seed"), option("--faults-only"))


@pytest.fixture
def databases(uri: str) -> Iterator[tuple[Mongo, Databases]]:
    """A client that nothing happens to, and prepared databases."""
    with Mongo(uri, tz_aware=True) as client, taken(client):
        yield client, Databases(client)
