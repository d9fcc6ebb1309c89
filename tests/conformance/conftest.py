"""What the conformance tests share: a store under test and a hand on its time.

`lab` is parametrised over the stores: a test that asks for it holds for both. `mongo` is the real one alone.
"""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient

from streamq.core.claim import Ask, Claim
from streamq.core.member import Member
from streamq.core.new_task import NewTask
from streamq.core.options import Options, PutOptions
from streamq.core.settlement import Settlement, SettleMove
from streamq.core.wake import Wake
from streamq.core.wakes import Interest
from streamq.store import checking
from streamq.store.contract import Feed, Store
from streamq.store.memory import MemoryStore
from streamq.store.mongo import MongoStore
from tests.access import Access
from tests.databases import Databases

HEARD_S = 10.0
"""How long an event may take before its test fails; none waits this long when all is well."""


class Lab:
    """A store, short ways to ask things of it, and `pass_time`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._counter = itertools.count(1)

    # --- asking -----------------------------------------------------------------------------------------------

    def new(
        self,
        queue: str = "q",
        *,
        task: str | None = "t",
        payload: Any = None,
        max_attempts: int = 5,
        priority: int = 0,
        keep_s: float | None = None,
        keep_failed_s: float | None = None,
        expires_in_s: float | None = None,
        total_timeout_s: float | None = None,
        reply_to: str | None = None,
        id: ObjectId | None = None,
        options: PutOptions | None = None,
    ) -> NewTask:
        return NewTask(
            id=id or ObjectId(),
            queue=queue,
            task=task,
            payload=payload,
            options=Options(**(options or {})),
            max_attempts=max_attempts,
            priority=priority,
            keep_s=keep_s,
            keep_failed_s=keep_failed_s,
            expires_in_s=expires_in_s,
            total_timeout_s=total_timeout_s,
            reply_to=reply_to,
        )

    def put(self, queue: str = "q", **more: Any) -> ObjectId:
        """Put one task and return its id."""
        (reply,) = self.store.put([self.new(queue, **more)])
        assert reply.created
        return reply.id

    def ask(self, limit: int = 10, **more: Any) -> Ask:
        """Build a request with a claim id of its own."""
        given: dict[str, Any] = {"queue": "q", "claim_id": os.urandom(16), "lease_s": 30.0, "worker": "w"}
        return Ask(limit=limit, **(given | more))

    def claim(self, limit: int = 10, **more: Any) -> list[Claim]:
        return list(self.store.claim(self.ask(limit, **more)).claims)

    def claimed(self, queue: str = "q", **more: Any) -> Claim:
        """Put one task and claim it."""
        id = self.put(queue, **more)
        (claim,) = self.claim(queue=queue, ids=(id,), durable=True)
        return claim

    def settle(self, claim: Claim, move: SettleMove, **more: Any) -> str:
        """Settle one claim and return the verdict."""
        (verdict,) = self.store.settle([self.settlement(claim, move, **more)])
        return verdict

    def settlement(self, claim: Claim, move: SettleMove, **more: Any) -> Settlement:
        if move == "succeed":
            more.setdefault("keep_s", 60.0)
        return Settlement(claim.id, claim.queue, claim.claim_id, move, **more)

    def member(self, id: str | None = None, *, queues: tuple[str, ...] = ("q",), lease_s: float = 30.0) -> Member:
        return Member(id or f"m{next(self._counter)}", "host", 1, queues, 1, lease_s)

    def stored(self, id: ObjectId) -> dict[str, Any]:
        """The document as it stands; fails when there is none."""
        raise NotImplementedError

    def remove(self, id: ObjectId) -> None:
        """Take a document away, as a person or the server's clockwork would."""
        raise NotImplementedError

    def unset(self, id: ObjectId, field: str) -> None:
        """Take a field off a document by hand."""
        raise NotImplementedError

    # --- hearing ----------------------------------------------------------------------------------------------

    def hear(self, *queues: str, timers: bool = False, reply_to: str | None = None) -> Ear:
        """Open a feed; what happens from now on is heard."""
        interest = Interest(queues, timers, reply_to, bell=f"bell{next(self._counter)}")
        feed = self.store.feed(interest, 0.1)
        member = self.member(queues=())
        self.store.beat(member)
        return Ear(self, feed, interest, member)

    # --- time -------------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        raise NotImplementedError


class Ear:
    """An open feed."""

    def __init__(self, lab: Lab, feed: Feed, interest: Interest, member: Member) -> None:
        self.feed = feed
        self.interest = interest
        self.member = member
        self._lab = lab

    def next(self) -> Wake:
        """Return the next wake that is not about members; fail when none comes."""
        until = time.monotonic() + HEARD_S
        while time.monotonic() < until:
            wake = self.feed.read()
            if wake is not None and wake.kind != "member":
                return wake
        raise AssertionError("nothing was heard")

    def rest(self) -> list[Wake]:
        """Return all that is told until now: a bell is rung and everything before it read."""
        self._lab.store.ring(self.member, self.interest.bell)
        wakes: list[Wake] = []
        until = time.monotonic() + HEARD_S
        while time.monotonic() < until:
            wake = self.feed.read()
            if wake is not None and wake.kind == "bell":
                return wakes
            if wake is not None:
                wakes.append(wake)
        raise AssertionError("the bell was not heard")


class MemoryLab(Lab):
    """The store in memory; its clock is the lab's."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)
        self.memory = MemoryStore(lambda: self._now)
        super().__init__(self.memory)

    def stored(self, id: ObjectId) -> dict[str, Any]:
        document = self.store.get(id)
        assert document is not None
        return dict(document)

    def remove(self, id: ObjectId) -> None:
        del self.memory.documents[id]

    def unset(self, id: ObjectId, field: str) -> None:
        self.memory.documents[id].pop(field, None)  # type: ignore[misc]

    def pass_time(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


class MongoLab(Lab):
    """The real store; time passes by moving the instants that it is measured by."""

    def __init__(self, store: MongoStore, admin: MongoClient[dict[str, Any]]) -> None:
        super().__init__(store)
        self.mongo = store
        self.admin = admin
        """Who may do what no application may: set rules of a collection, explain, end sessions."""
        self.database = admin[store._database.name]

    def on(self, store: MongoStore) -> MongoLab:
        """Return a lab on another store of this database."""
        return type(self)(store, self.admin)

    def pass_time(self, seconds: float) -> None:
        ms = round(seconds * 1000)
        moved = {
            name: {
                "$cond": [
                    {"$eq": [{"$type": f"${name}"}, "date"]},
                    {"$subtract": [f"${name}", ms]},
                    f"${name}",
                ]
            }
            for name in ("due_at", "lease_until", "expires_at", "lifetime_until", "total_until")
        }
        # Since when a lease has lasted: it is as long as it was.
        held = {"$and": [{"$eq": [{"$type": f"${name}"}, "date"]} for name in ("started_at", "lease_until")]}
        moved["started_at"] = {"$cond": [held, {"$subtract": ["$started_at", ms]}, "$started_at"]}
        # An absent field stays absent: in a pipeline it is not set to itself.
        self.mongo._tasks.durable.update_many({"status": {"$exists": True}}, [{"$set": moved}])
        filled = {"$set": {"filled_at": {"$subtract": ["$filled_at", ms]}}}
        self.mongo._tasks.meta.update_many({"filled_at": {"$exists": True}}, [filled])
        ends = {"remove_at": {"$subtract": ["$remove_at", ms]}}
        self.mongo._tasks.meta.update_many({"remove_at": {"$type": "date"}}, [{"$set": ends}])

    def stored(self, id: ObjectId) -> dict[str, Any]:
        # Not by `get`: claims are w:1, and what is majority-committed may be a moment behind.
        found = self.mongo._tasks.durable.find_one({"_id": id})
        assert found is not None
        return found

    def remove(self, id: ObjectId) -> None:
        self.mongo._tasks.durable.delete_one({"_id": id})

    def unset(self, id: ObjectId, field: str) -> None:
        self.edit(id, {"$unset": {field: ""}})

    def edit(self, id: ObjectId, update: Mapping[str, Any]) -> None:
        """Change a document by hand, as no move would."""
        self.mongo._tasks.durable.update_one({"_id": id}, update)


@pytest.fixture(autouse=True)
def busy_oplog(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's oplog is small, and full of what other tests wrote lately: that is no finding here."""
    monkeypatch.setattr(checking, "OPLOG_HOURS", 0.0)


@pytest.fixture(scope="session")
def databases(access: Access) -> Iterator[Databases]:
    with MongoClient[dict[str, Any]](access.admin_uri) as client:
        yield Databases(client, made=access.open)


@pytest.fixture
def database(databases: Databases) -> Iterator[str]:
    """The name of a prepared database that is the test's own while it runs."""
    with databases.lend() as name:
        yield name


@pytest.fixture
def empty_database(access: Access) -> Iterator[str]:
    """The name of a database which nobody has prepared."""
    with access.lend(f"test_{uuid.uuid4().hex[:12]}") as name:
        yield name


@pytest.fixture
def mongo(uri: str, database: str, admin: MongoClient[dict[str, Any]]) -> Iterator[MongoLab]:
    """A lab on the real server, with a database of its own."""
    store = MongoStore.connect(uri, database)
    yield MongoLab(store, admin)
    store.close()


@pytest.fixture(params=["memory", "mongo"])
def lab(request: pytest.FixtureRequest) -> Lab:
    """A lab on each store in turn."""
    if request.param == "memory":
        return MemoryLab()
    mongo: MongoLab = request.getfixturevalue("mongo")
    return mongo
