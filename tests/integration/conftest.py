"""Apps on the session's server, closed when the test ends."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, Protocol

import pytest
from pymongo import MongoClient

from streamq import StreamQ
from tests.guarded import Guarded

Mongo = MongoClient[dict[str, Any]]


class MakeApp(Protocol):
    def __call__(self, uri: str | None = None, **options: Any) -> StreamQ: ...


@pytest.fixture
def make_app(uri: str, database: str) -> Iterator[MakeApp]:
    """Make apps, each with a client of its own, as processes have."""
    made: list[StreamQ] = []

    def make(uri: str | None = uri, **options: Any) -> StreamQ:
        app = StreamQ(uri, **({"database": database} | options))
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def mongo(admin_uri: str) -> Iterator[Mongo]:
    """A plain client beside streamq's, of who may do everything."""
    with Mongo(admin_uri, tz_aware=True) as client:
        yield client


@pytest.fixture
def place(guard: Guarded) -> Iterator[str]:
    """The name of a database there."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield name
    guard.forget(name)
