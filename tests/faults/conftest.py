"""Apps on the session's server, each with a client of its own; and how far sweeps go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from tests.databases import Databases, drop_collections
from tests.faults.script import ORDERS, Mongo
from tests.faults.sweep import Sweep
from tests.integration.conftest import make_app, mongo

__all__ = ["make_app", "mongo"]


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> Sweep:
    """Some cases of each sweep, or as many as `--faults-cases` says."""
    return Sweep(request.config.getoption("--faults-cases"), request.config.getoption("--faults-seed"))


@pytest.fixture
def databases(uri: str) -> Iterator[tuple[Mongo, Databases]]:
    """A client, and prepared databases."""
    with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        client[ORDERS].create_collection("orders")  # or transactions would make it, one against the other
        yield client, Databases(client)
        drop_collections(client, ORDERS)
