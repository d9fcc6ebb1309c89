"""A primary that is cut off from the others steps down and still answers: nobody goes on to listen to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from streamq.core.wakes import Interest
from streamq.errors import FeedEnded
from streamq.store.contract import Feed
from streamq.store.mongo import MongoStore
from tests.chaos.conftest import SEED
from tests.chaos.scene import Place, Scene
from tests.patience import eventually

ELECTED_S: Final = 30.0
"""More than an election."""

READS: Final = 40
"""Some seconds of them: far fewer than until it is found again."""

INTEREST: Final = Interest(queues=("q",), timers=True, reply_to=None, bell="bell")

OPENED: Final[dict[str, Callable[[MongoStore], Feed]]] = {
    "stream": lambda store: store.feed(INTEREST, await_s=0.1),
    "wake channel": lambda store: store.tail(("q",), "bell", await_s=0.1),
}


def read_on(feed: Feed) -> None:
    for _ in range(READS):
        feed.read()


@pytest.mark.chaos
@pytest.mark.parametrize("name", OPENED)
def test_feed_of_a_primary_that_was_cut_off_ends_when_another_is_elected(
    place: Place, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server, network = place
    if network is None:
        pytest.skip("no network of its own")
    with Scene(server, tmp_path_factory.mktemp("deposed") / "history", SEED, network=network) as scene:
        store = MongoStore.connect(server.uri, scene.database, wake="tailable")
        store.prepare()
        feed = OPENED[name](store)
        feed.read()
        primary = scene.primary()
        try:
            for other in scene.secondaries():
                network.close(primary.host, other.host)
                network.close(other.host, primary.host)
            before = (primary.host, primary.port)
            assert eventually(lambda: store.client.primary not in (None, before), ELECTED_S)
            with pytest.raises(FeedEnded, match="primary no more"):
                read_on(feed)
        finally:
            feed.close()
            store.close()
            scene.mend()
