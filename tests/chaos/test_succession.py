"""A call that waits for a frozen primary goes on as soon as another is elected, however long the driver's monitor of
the old one would wait."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import pytest
from pymongo.errors import WriteConcernError

from streamq.store.mongo import MongoStore
from streamq.store.succession import Succession
from tests.chaos import mutants
from tests.chaos.conftest import SEED
from tests.chaos.scene import Place, Scene
from tests.patience import eventually

SLOW: Final = "&connectTimeoutMS=40000&heartbeatFrequencyMS=40000"
ELECTED_S: Final = 30.0
"""More than an election; less than what the monitor waits."""

SOON_S: Final = 12.0
"""By when a call has gone on whose client has heard of the election: the other secondary may have to give up a read
from the frozen one before a majority has what is written."""

INTERRUPTED: Final = 11_602
"""What the driver says when there is a second election on a busy machine: it has sent the call again once already."""


@contextmanager
def call_to_a_frozen_primary(place: Place, temporary: pytest.TempPathFactory) -> Iterator[Future[Any]]:
    """Give a call that was on its way as its primary froze, once its client knows of another."""
    server, network = place
    with (
        ThreadPoolExecutor(1) as pool,
        Scene(server, temporary.mktemp("succession") / "history", SEED, network=network) as scene,
    ):
        store = MongoStore.connect(server.uri + SLOW, scene.database)
        store.prepare()
        frozen = scene.primary()
        beside = store.client[scene.database]["beside"]
        beside.insert_one({"_id": 0})
        frozen.suspend()
        try:
            writing = pool.submit(beside.insert_one, {"_id": 1})
            assert eventually(lambda: store.client.primary not in (None, (frozen.host, frozen.port)), ELECTED_S)
            yield writing
        finally:
            frozen.resume()
            store.close()
            scene.mend()


@pytest.mark.chaos
def test_call_to_a_frozen_primary_goes_on_when_another_is_elected(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with call_to_a_frozen_primary(place, tmp_path_factory) as writing:
        assert eventually(writing.done, SOON_S)
        error = writing.exception()
        assert error is None or (isinstance(error, WriteConcernError) and error.code == INTERRUPTED), error


@pytest.mark.chaos
def test_call_to_a_frozen_primary_waits_on_when_nobody_ends_it(
    place: Place, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    monkeypatch.setattr(Succession, "dismiss", Succession.dismiss)  # is put back then
    mutants.become(["no_succession"])
    with call_to_a_frozen_primary(place, tmp_path_factory) as writing:
        assert not eventually(writing.done, SOON_S)
