"""The proxy does to the road what it is told to, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pymongo
import pytest
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, ConnectionFailure, NetworkTimeout

from streamq import embedded
from tests.access import Access
from tests.patience import eventually
from tests.proxy import WELL, Proxy, Road, Trap, advertise
from tests.wire import is_many

Documents = Collection[dict[str, Any]]

ONCE = "&retryWrites=false&retryReads=false&serverSelectionTimeoutMS=3000&connectTimeoutMS=3000"


@pytest.fixture
def proxy(access: Access) -> Iterator[Proxy]:
    with Proxy(access.server.nodes[0].port, login=access.admin_login) as proxy:
        yield proxy


@pytest.fixture
def documents(proxy: Proxy, database: str) -> Iterator[Documents]:
    """Three documents, seen through the proxy by a client that sends everything once."""
    with MongoClient[dict[str, Any]](proxy.uri + ONCE) as client:
        own = client[database]["documents"]
        own.insert_many([{"_id": number, "n": 0} for number in range(3)])
        yield own


@pytest.fixture
def beside(admin: MongoClient[dict[str, Any]], database: str) -> Documents:
    """The same documents, not through the proxy."""
    return admin[database]["documents"]


def counted(documents: Documents) -> list[int]:
    return [int(one["n"]) for one in documents.find(sort=[("_id", 1)])]


def add_one(documents: Documents) -> None:
    documents.update_many({}, {"$inc": {"n": 1}})


def test_message_that_is_cut_before_is_not_executed(proxy: Proxy, documents: Documents, beside: Documents) -> None:
    trap = proxy.trap("update", then="cut before")
    with pytest.raises(AutoReconnect):
        add_one(documents)
    assert trap.sprung.is_set()
    assert counted(beside) == [0, 0, 0]


def test_message_whose_reply_is_lost_is_executed(proxy: Proxy, documents: Documents, beside: Documents) -> None:
    proxy.trap("delete", then="lose reply", if_=is_many)
    with pytest.raises(AutoReconnect):
        documents.delete_many({"_id": {"$lt": 2}})
    assert counted(beside) == [0]
    assert counted(documents) == [0]  # by a new connection


def test_reply_that_is_swallowed_leaves_its_connection_open(
    proxy: Proxy, database: str, documents: Documents, beside: Documents
) -> None:
    trap = proxy.trap("update", then="swallow reply")
    with (
        MongoClient[dict[str, Any]](proxy.uri + ONCE + "&socketTimeoutMS=200") as hasty,
        pytest.raises(NetworkTimeout),
    ):
        add_one(hasty[database]["documents"])
    assert trap.sprung.is_set()
    assert counted(beside) == [1, 1, 1]


def test_trap_waits_for_the_one_it_is_for(proxy: Proxy, documents: Documents, beside: Documents) -> None:
    trap = proxy.trap("update", nth=2, if_=is_many)
    documents.update_one({"_id": 0}, {"$inc": {"n": 1}})
    add_one(documents)
    assert (trap.seen, trap.sprung.is_set()) == (1, False)
    with pytest.raises(AutoReconnect):
        add_one(documents)
    add_one(documents)
    assert counted(beside) == [4, 3, 3]
    assert trap.seen == 3


def test_two_traps_take_two_messages(proxy: Proxy, documents: Documents, beside: Documents) -> None:
    proxy.trap("update", then="cut before")
    proxy.trap("update", then="lose reply")
    for _ in range(2):
        with pytest.raises(AutoReconnect):
            add_one(documents)
    assert counted(beside) == [1, 1, 1]


@pytest.mark.parametrize(
    ("set_trap", "meanwhile"),
    [
        (lambda proxy: proxy.trap("update", then="hold before"), [0, 0, 0]),
        (lambda proxy: proxy.trap("update", then="hold reply"), [1, 1, 1]),
    ],
    ids=["before", "reply"],
)
def test_what_is_held_goes_on_when_it_is_released(
    proxy: Proxy,
    documents: Documents,
    beside: Documents,
    set_trap: Callable[[Proxy], Trap],
    meanwhile: list[int],
) -> None:
    trap = set_trap(proxy)
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(add_one, documents)
        assert trap.sprung.wait(10)
        assert counted(beside) == meanwhile
        assert not adding.done()
        trap.release()
        adding.result(10)
    assert counted(beside) == [1, 1, 1]


def test_road_delays_each_way(proxy: Proxy, documents: Documents) -> None:
    counted(documents)
    proxy.road = Road(delay_s=0.05)
    began = time.monotonic()
    counted(documents)
    assert time.monotonic() - began >= 0.1


def test_road_that_drips_carries_all(proxy: Proxy, documents: Documents) -> None:
    proxy.road = Road(drip_bytes=1_000, drip_pause_s=0.002)
    text = "x" * 20_000
    documents.insert_one({"_id": "long", "text": text})
    found = documents.find_one({"_id": "long"})
    assert found is not None
    assert found["text"] == text


def test_road_that_loses_breaks_the_connection(proxy: Proxy, documents: Documents) -> None:
    proxy.road = Road(loss=1.0)
    with pytest.raises(ConnectionFailure):
        counted(documents)
    proxy.road = WELL
    assert counted(documents) == [0, 0, 0]


def test_block_of_one_way_lets_the_other_pass(proxy: Proxy, documents: Documents, beside: Documents) -> None:
    proxy.block("to client")
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(add_one, documents)
        assert eventually(lambda: counted(beside) == [1, 1, 1])
        assert not adding.done()
        proxy.unblock()
        adding.result(10)


def test_cut_breaks_all_and_new_connections_are_taken_unless_refused(proxy: Proxy, documents: Documents) -> None:
    counted(documents)
    proxy.refuse()
    proxy.cut()
    assert eventually(lambda: proxy.open_connections == 0)
    with pymongo.timeout(0.3), pytest.raises(ConnectionFailure):
        counted(documents)
    proxy.refuse(False)
    assert counted(documents) == [0, 0, 0]


def test_proxy_leaves_no_thread(server: embedded.EmbeddedServer) -> None:
    before = set(threading.enumerate())
    with Proxy(server.nodes[0].port) as proxy:
        trap = proxy.trap("ping", then="hold before")
        with MongoClient[dict[str, Any]](proxy.uri + ONCE) as client, ThreadPoolExecutor(1) as pool:
            ping = pool.submit(client.admin.command, "ping")
            assert trap.sprung.wait(10)
            proxy.close()
            assert isinstance(ping.exception(10), AutoReconnect)
    assert eventually(lambda: set(threading.enumerate()) <= before)


def test_set_that_knows_itself_by_the_proxy_is_reached_through_it_alone() -> None:
    with embedded.start() as own, Proxy(own.nodes[0].port) as proxy:
        uri = advertise(proxy, own.nodes[0].port)
        with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=10_000) as client:
            client.admin.command("ping")
            assert client.nodes == {("127.0.0.1", proxy.port)}
