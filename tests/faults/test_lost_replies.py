"""Claims of which the server executes every fifth and never answers, and refuses every fifth: each is given once.

What is lost after execution is the answer to a retryable write (fail point `onPrimaryTransactionalWrite`): the driver
sends it again, and the server answers by what it has done. What is lost twice over is read back, or given back.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from bson import ObjectId

from streamq import StreamQ
from streamq.core.claim import Ask
from streamq.core.settlement import Settlement
from streamq.embedded import EmbeddedServer
from streamq.errors import ClaimUnknown, StoreError
from streamq.store.mongo import MongoStore
from tests.databases import Databases, Mongo
from tests.faults.fault import DEFAULTS
from tests.long_form import sized
from tests.proxy import Proxy

CLAIMS: Final = sized(200, 20_000)
SHARE: Final = 0.2
HANDS: Final = 8
"""The driver looks for the server for up to half a second after each broken connection: several beside each other."""

APP: Final = "lost-replies"
TRIALS: Final = 50
LEASE_S: Final = 3_600.0


class Tally(msgspec.Struct):
    """What one hand was told."""

    given: Counter[ObjectId] = msgspec.field(default_factory=Counter)
    attempts: Counter[ObjectId] = msgspec.field(default_factory=Counter)
    """The attempt that the claim counted."""
    unknown: int = 0


@contextmanager
def losing(mongo: Mongo) -> Iterator[dict[str, int]]:
    """Lose answers and refuse commands in the body; say afterwards how many, by the fail point."""
    mode = {"activationProbability": SHARE}
    points: Mapping[str, dict[str, Any]] = {
        "onPrimaryTransactionalWrite": {"closeConnection": True},
        "failCommand": {"failCommands": ["findAndModify"], "appName": APP, "errorCode": 262},
    }
    counts: dict[str, int] = {}
    before = {name: mongo.admin.command("configureFailPoint", name, mode="off")["count"] for name in points}
    try:
        for name, data in points.items():
            mongo.admin.command("configureFailPoint", name, mode=mode, data=data)
        yield counts
    finally:
        for name in points:
            counts[name] = mongo.admin.command("configureFailPoint", name, mode="off")["count"] - before[name]


def claim_all(uri: str, database: str, ids: Sequence[ObjectId]) -> Tally:
    """Claim each of these and settle it; what is unknown is given back and claimed again."""
    tally = Tally()
    with Mongo(uri, tz_aware=True, **DEFAULTS | {"appname": APP}) as client:
        store = MongoStore(client, database)
        for id in ids:
            for _ in range(TRIALS):
                ask = Ask("q", 1, os.urandom(16), LEASE_S, "hand", ids=(id,))
                try:
                    (claim,) = store.claim(ask).claims
                except ClaimUnknown as error:
                    tally.unknown += 1
                    give_back(store, error)
                    continue
                tally.given[id] += 1
                tally.attempts[id] = claim.attempt
                settle(store, Settlement(id, "q", claim.claim_id, "succeed", keep_s=LEASE_S))
                break
    return tally


def give_back(store: MongoStore, unknown: ClaimUnknown) -> None:
    """Give back what a claim may hold. Whoever asked waits until it takes no effect any more."""
    threading.Event().wait(unknown.settles_in_s)
    for _ in range(TRIALS):
        try:
            store.abandon(unknown)
        except StoreError:
            continue
        return
    raise AssertionError("never given back")


def settle(store: MongoStore, settlement: Settlement) -> None:
    for _ in range(TRIALS):
        try:
            assert store.settle([settlement]) == ["settled"]
        except StoreError:
            continue
        return
    raise AssertionError("never settled")


def test_claim_whose_replies_are_lost_is_given_once_and_counts_one_attempt(
    uri: str, databases: tuple[Mongo, Databases]
) -> None:
    mongo, lent = databases
    with lent.lend() as database:
        ids = [ObjectId() for _ in range(CLAIMS)]
        app = StreamQ(client=mongo, database=database)
        app.blocking.put_many(app.queue("q").new(None, id=id) for id in ids)
        with losing(mongo) as counts, ThreadPoolExecutor(HANDS) as hands:
            tallies = list(hands.map(lambda n: claim_all(uri, database, ids[n::HANDS]), range(HANDS)))
        stored = {one["_id"]: one for one in mongo[database].tasks.find({"queue": "q"})}
    given = sum((one.given for one in tallies), Counter[ObjectId]())
    assert given == Counter(ids)
    assert sum((one.attempts for one in tallies), Counter[ObjectId]()) == given
    assert {id: one["attempt"] for id, one in stored.items()} == given
    assert {one["status"] for one in stored.values()} == {"succeeded"}
    assert min(counts.values()) > CLAIMS * SHARE / 4, "next to nothing was lost"


def test_claim_from_the_streams_thread_whose_reply_is_lost_on_the_road_is_given(
    server: EmbeddedServer, databases: tuple[Mongo, Databases]
) -> None:
    """It is sent as a command that no driver repeats."""
    mongo, lent = databases
    with lent.lend() as database, Proxy(server.nodes[0].port) as proxy:
        handle = StreamQ(client=mongo, database=database).blocking.queue("q").put(None)
        with Mongo(proxy.uri, tz_aware=True, **DEFAULTS) as client:
            store = MongoStore(client, database)
            trap = proxy.trap("findAndModify", then="lose reply")
            (claim,) = store.claim(Ask("q", 1, os.urandom(16), LEASE_S, "hand", ids=(handle.id,), plain=True)).claims
            assert trap.sprung.is_set()
            assert (claim.id, claim.attempt) == (handle.id, 1)
            settle(store, Settlement(claim.id, "q", claim.claim_id, "succeed", keep_s=LEASE_S))
