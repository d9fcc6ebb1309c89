"""A reply that never comes, the connection staying open: each call of the store is over at its own deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from streamq import StreamQ
from streamq.core.settlement import Settlement
from streamq.core.wakes import Interest
from streamq.embedded import EmbeddedServer
from streamq.errors import StoreUnavailable
from streamq.store.mongo import MongoStore
from tests.proxy import Proxy

TIMEOUT_S: Final = 1.0

OVER_S: Final = 10.0
"""So late on a busy machine; without a deadline it would be for ever."""

INTEREST: Final = Interest(queues=("q",), timers=True, reply_to=None, bell="bell")


@pytest.fixture
def proxy(server: EmbeddedServer) -> Iterator[Proxy]:
    with Proxy(server.nodes[0].port) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: Proxy, database: str) -> Iterator[MongoStore]:
    store = MongoStore.connect(proxy.uri, database, timeout_s=TIMEOUT_S)
    store.prepare()
    yield store
    store.close()


def soon(call: Callable[[], Any]) -> Any:
    """Call it, and see to it that it did not take long."""
    began_at = time.monotonic()
    try:
        return call()
    finally:
        assert time.monotonic() - began_at < OVER_S


def test_opening_a_stream(proxy: Proxy, store: MongoStore) -> None:
    trap = proxy.trap("aggregate", then="swallow reply")
    with pytest.raises(StoreUnavailable, match="cannot open the change stream"):
        soon(lambda: store.feed(INTEREST).close())
    assert trap.sprung.is_set()


def test_aborting_a_transaction(proxy: Proxy, store: MongoStore) -> None:
    session = store.begin()
    store.client["beside"]["documents"].insert_one({}, session=session)
    trap = proxy.trap("abortTransaction", then="swallow reply")
    soon(lambda: store.abort(session, None))
    assert trap.sprung.is_set()


def test_giving_up_the_transaction_of_a_task_that_was_lost(proxy: Proxy, store: MongoStore) -> None:
    session = store.begin()
    trap = proxy.trap("abortTransaction", then="swallow reply")
    inserted = store.client["beside"]["documents"].insert_one({}, session=session)
    lost = Settlement(inserted.inserted_id, "q", b"x", "fail")
    assert soon(lambda: store.commit(session, lost)) == "lost"
    assert trap.sprung.is_set()


def test_put_whose_key_outlives_its_task_when_the_server_has_gone(proxy: Proxy, store: MongoStore) -> None:
    """Nothing of its transaction is stored, and it is not tried for longer than any put."""
    queue = StreamQ("mongodb://nowhere/").queue("q")
    store.put([queue.new(1, unique="first", unique_for_s=60)])
    proxy.refuse()
    proxy.cut()
    with pytest.raises(StoreUnavailable):  # from now on the driver knows
        store.counts()
    with pytest.raises(StoreUnavailable):
        soon(lambda: store.put([queue.new(2, unique="second", unique_for_s=60)]))
