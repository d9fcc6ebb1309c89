"""A call that waits for a frozen primary goes on as soon as another is elected, however long the driver's monitor of
the old one would wait."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from streamq.store.mongo import MongoStore
from tests.chaos.conftest import SEED
from tests.chaos.scene import Place, Scene
from tests.patience import eventually

SLOW: Final = "&connectTimeoutMS=40000&heartbeatFrequencyMS=40000"
ELECTED_S: Final = 30.0
"""More than an election; less than what the monitor waits."""


@pytest.mark.chaos
def test_call_to_a_frozen_primary_goes_on_when_another_is_elected(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server, network = place
    with (
        Scene(server, tmp_path_factory.mktemp("succession") / "history", SEED, network=network) as scene,
        ThreadPoolExecutor(1) as pool,
    ):
        store = MongoStore.connect(server.uri + SLOW, scene.database)
        store.prepare()
        frozen = scene.primary()
        beside = store.client[scene.database]["beside"]
        beside.insert_one({"_id": 0})
        frozen.suspend()
        try:
            writing = pool.submit(beside.insert_one, {"_id": 1})
            assert eventually(writing.done, ELECTED_S)
            assert writing.result().acknowledged
            assert store.client.primary != (frozen.host, frozen.port)
        finally:
            frozen.resume()
            store.close()
            scene.mend()
