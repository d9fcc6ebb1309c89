"""A primary that is cut off from the others steps down and still answers: nobody goes on to listen to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import pytest

from streamq.core.wakes import Interest
from streamq.errors import FeedEnded
from streamq.store.contract import Feed
from streamq.store.mongo import MongoStore
from streamq.store.succession import Address
from tests.chaos.conftest import SEED
from tests.chaos.network import Network
from tests.chaos.scene import Place, Scene
from tests.patience import eventually

ELECTED_S: Final = 30.0
"""More than an election."""

ENDED_S: Final = 5.0
"""By when a read has ended that was told of the election: far sooner than `AWAIT_S`."""

READS: Final = 40
"""Some seconds of them: far fewer than until it is found again."""

AWAIT_S: Final = 20.0
"""How long a read that waits would go on to."""

FROZEN_S: Final = 5
"""For so long the others stand for no election: the primary has stepped down when they do."""

INTEREST: Final = Interest(queues=("q",), timers=True, reply_to=None, bell="bell")

OPENED: Final[dict[str, Callable[[MongoStore, float], Feed]]] = {
    "stream": lambda store, await_s: store.feed(INTEREST, await_s=await_s),
    "wake channel": lambda store, await_s: store.tail(("q",), "bell", await_s=await_s),
}


@contextmanager
def followed(
    place: Place, name: str, await_s: float, temporary: pytest.TempPathFactory
) -> Iterator[tuple[Scene, Network, MongoStore, Feed]]:
    """Give a scene whose primary can be cut off, and a feed with its store."""
    server, network = place
    if network is None:
        pytest.skip("no network of its own")
    with Scene(server, temporary.mktemp("deposed") / "history", SEED, network=network) as scene:
        store = MongoStore.connect(server.uri, scene.database, wake="tailable")
        store.prepare()
        feed = OPENED[name](store, await_s)
        try:
            yield scene, network, store, feed
        finally:
            feed.close()
            store.close()
            scene.mend()


def isolate(scene: Scene, network: Network) -> Address:
    """Cut the primary off from the others."""
    primary = scene.primary()
    for other in scene.secondaries():
        network.close(primary.host, other.host)
        network.close(other.host, primary.host)
    return primary.host, primary.port


def read_on(feed: Feed) -> None:
    for _ in range(READS):
        feed.read()


@pytest.mark.chaos
@pytest.mark.parametrize("name", OPENED)
def test_feed_of_a_primary_that_was_cut_off_ends_when_another_is_elected(
    place: Place, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with followed(place, name, 0.1, tmp_path_factory) as (scene, network, store, feed):
        feed.read()
        before = isolate(scene, network)
        assert eventually(lambda: store.client.primary not in (None, before), ELECTED_S)
        with pytest.raises(FeedEnded, match="primary no more"):
            read_on(feed)


@pytest.mark.chaos
@pytest.mark.parametrize("name", OPENED)
def test_read_that_waits_at_a_primary_that_was_cut_off_ends_when_another_is_elected(
    place: Place, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Though the one that was cut off has said before that it is primary no more, and nobody else was then."""
    with (
        ThreadPoolExecutor(1) as pool,
        followed(place, name, AWAIT_S, tmp_path_factory) as (scene, network, store, feed),
    ):
        for other in scene.secondaries():
            scene.command(other, {"replSetFreeze": FROZEN_S})
        before = isolate(scene, network)
        reading = pool.submit(read_on, feed)
        assert eventually(lambda: store.client.primary is None, ELECTED_S)
        assert eventually(lambda: store.client.primary not in (None, before), ELECTED_S)
        assert eventually(reading.done, ENDED_S)
        with pytest.raises(FeedEnded):
            reading.result()
