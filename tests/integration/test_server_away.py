"""A server that is away: what reads from it does not wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from streamq.core.wakes import Interest
from streamq.errors import FeedEnded
from streamq.store.contract import Feed
from streamq.store.mongo import MongoStore
from tests.access import Access
from tests.patience import eventually
from tests.proxy import Proxy

INTEREST: Final = Interest(queues=("q",), timers=True, reply_to=None, bell="bell")

AT_ONCE_S: Final = 2.0
"""Far less than the 10 s that the driver waits for a server."""

OPENED: Final[dict[str, Callable[[MongoStore], Feed]]] = {
    "stream": lambda store: store.feed(INTEREST, await_s=0.05),
    "wake channel": lambda store: store.tail(("q",), "bell", await_s=0.05),
}


@pytest.fixture
def proxy(access: Access) -> Iterator[Proxy]:
    with Proxy(access.server.nodes[0].port, login=access.login) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: Proxy, database: str) -> Iterator[MongoStore]:
    store = MongoStore.connect(proxy.uri, database, wake="tailable")
    store.prepare()
    yield store
    proxy.refuse(False)  # or closing the client waits for it
    store.close()


@pytest.mark.parametrize("name", OPENED)
def test_feed_whose_server_is_away_ends_at_once(proxy: Proxy, store: MongoStore, name: str) -> None:
    feed = OPENED[name](store)
    feed.read()
    proxy.refuse()
    proxy.cut()
    assert eventually(lambda: not store.client.nodes)
    began = time.monotonic()
    with pytest.raises(FeedEnded, match="its server is away"):
        feed.read()
    feed.close()
    assert time.monotonic() - began < AT_ONCE_S


@pytest.mark.parametrize("name", OPENED)
def test_feed_goes_on_though_the_description_of_the_set_has_changed(proxy: Proxy, store: MongoStore, name: str) -> None:
    feed = OPENED[name](store)
    feed.read()
    before = store.client.topology_description
    proxy.cut()
    assert eventually(lambda: store.client.nodes and store.client.topology_description is not before)
    if name == "stream":  # its cursor outlives the connection
        feed.read()
    feed.close()
