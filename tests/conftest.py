"""What tests of several kinds share: one embedded server a session, one database a test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from streamq import embedded
from tests.databases import drop_collections


def pytest_addoption(parser: pytest.Parser) -> None:
    """How far the sweeps of tests/faults go."""
    group = parser.getgroup("faults")
    group.addoption(
        "--faults-cases", help="how many cases of each sweep: a number, or all (default: a few seconds' worth)"
    )
    group.addoption("--faults-seed", type=int, default=1, help="which cases are drawn")


@pytest.fixture(scope="session")
def server() -> Iterator[embedded.EmbeddedServer]:
    """A one-node set with fail points, started by the first test that asks for it."""
    # Without the server's own removal of old tasks, which looks once a minute and would do so in the middle of a test.
    with embedded.start(parameters={"enableTestCommands": 1, "ttlMonitorEnabled": False}) as server:
        yield server


@pytest.fixture
def uri(server: embedded.EmbeddedServer) -> str:
    """The connection string of the session's server."""
    return server.uri


@pytest.fixture
def database(uri: str) -> Iterator[str]:
    """The name of a database of the test's own, dropped when the test ends."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield name
    with MongoClient[dict[str, Any]](uri) as client:
        drop_collections(client, name)
