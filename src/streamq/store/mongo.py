"""The store on a real MongoDB: one thin method a call, the work in the rooms beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import pymongo
from bson import ObjectId
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure

from streamq.core import queries
from streamq.core.checkup import Checkup
from streamq.core.claim import Ask, Claim
from streamq.core.document import TERMINAL, TaskDocument
from streamq.core.features import Feature
from streamq.core.indexes import DEAD_INDEXES, LETTER_INDEXES, META_INDEXES, Index, needed
from streamq.core.member import FORGOTTEN_S, ROWS, Member, Roster, alive_s, beat_update, roster_of
from streamq.core.moves.cancel import CancelReply
from streamq.core.moves.requeue import Requeue
from streamq.core.new_task import NewTask, PutReply
from streamq.core.notice import WakeBy
from streamq.core.report import Reported
from streamq.core.requeued import Requeued
from streamq.core.schedule import Schedule, ScheduleInfo
from streamq.core.search import Search
from streamq.core.settlement import Settlement, Verdict
from streamq.core.unclaimed import READY_BY_HANDLER, Unclaimed, unclaimed_of
from streamq.core.unique_key import UniqueKey
from streamq.core.wakes import Interest
from streamq.core.workers import ROWS_WITH_AGE, WorkerView
from streamq.errors import ClaimUnknown, OptionInvalid, StoreError, StreamQError, UsageError
from streamq.store import (
    cancelling,
    checking,
    claiming,
    controlling,
    dead_letters,
    following,
    looking,
    putting,
    releasing,
    reporting,
    scheduling,
    settling,
    shelf,
    tending,
    ticking,
    transactions,
)
from streamq.store.clock import ServerClock
from streamq.store.collections import Document, Tasks, tasks_of
from streamq.store.contract import (
    NO_DEAD_LETTERS,
    Claimed,
    Deleted,
    Due,
    Firing,
    Overdue,
    Purged,
    Refused,
    Released,
    Renewed,
    Taking,
    Tick,
)
from streamq.store.faults import lacks_right, reading, writing
from streamq.store.feed import MongoFeed
from streamq.store.providing import indexes_of, lacking, provide
from streamq.store.setup import check_server, connect
from streamq.store.wake_channel import TailFeed

TIMEOUT_S: Final = 10.0
"""How long one call may take, retries of the driver included: an election (about 12 s by default) is mostly survived
inside a call or two, and a caller is never left waiting for long without an answer."""


class MongoStore:
    """Keeps `streamq.store.contract.Store` on one collection of a database.

    Thread-safe: every method may be called from any thread; a feed belongs to the thread that reads it.
    """

    def __init__(
        self,
        client: pymongo.MongoClient[Document],
        database: str,
        collection: str = "tasks",
        *,
        owns_client: bool = False,
        timeout_s: float = TIMEOUT_S,
        dead_letters: str | None = None,
        wake: WakeBy = "stream",
    ) -> None:
        self.client = client
        self._owns_client = owns_client
        with reading(f"use database {database!r} and collection {collection!r}"):  # names are checked here
            self._database = client[database]
            self._tasks = tasks_of(self._database, collection, timeout_s, dead_letters, wake)
            self._dead = self._tasks.dead
        self._clock = ServerClock(self._ask_time)
        self._swept_to: following.Place | None = None
        self._transaction_s: float | None = None

    @classmethod
    def connect(
        cls,
        uri: str,
        database: str,
        collection: str = "tasks",
        *,
        timeout_s: float = TIMEOUT_S,
        dead_letters: str | None = None,
        wake: WakeBy = "stream",
    ) -> MongoStore:
        """Make a store with a client of its own, configured as streamq wants it. Nothing is sent yet."""
        client = connect(uri)
        try:
            return cls(
                client,
                database,
                collection,
                owns_client=True,
                timeout_s=timeout_s,
                dead_letters=dead_letters,
                wake=wake,
            )
        except StreamQError:
            client.close()
            raise

    def prepare(self, *, strictly: bool = False) -> None:
        """See `Store.prepare`; `strictly`: raise `AccessRefused` where the user may make no indexes, though they may be
        there. Trips: 4, 1 more with a collection for dead letters, 2 more with a wake channel; without the right to
        make indexes 1 more a collection."""
        self._tasks.features.forget()
        with self._tasks.deadline():
            check_server(self._database)
            self._provide(strictly=strictly)
            if self._tasks.wakes is not None:
                self._tasks.wakes.prepare()

    def mend(self) -> list[str]:
        """See `Store.mend`. Trips: 1 when nothing is missing, else those of `prepare` and 2 for each feature that this
        process knows to be in use."""
        known = self._tasks.features.known()
        with reading("look at the indexes"), self._tasks.deadline():
            if not lacking(indexes_of(self._tasks.durable), needed(known)):
                return []
        self._tasks.features.forget()
        with self._tasks.deadline():
            collide = self._provide(strictly=False)
        # The database may have been dropped, and what was said in it: those who said it will not say it again.
        self._tasks.features.use(known)
        return collide

    def _provide(self, *, strictly: bool) -> list[str]:
        until = time.monotonic() + self._tasks.timeout_s
        collide = provide(self._tasks.durable, self.indexes(), until, strictly=strictly)
        provide(self._tasks.meta, META_INDEXES, until, strictly=strictly)
        if self._dead is not None:
            provide(self._dead.durable, LETTER_INDEXES, until, strictly=strictly)
        return collide

    def use(self, features: Set[Feature]) -> None:
        """Make the indexes of `features` now, as the first task or worker that takes part would have it done. Trips: 1
        and 1 for each, 0 when this process has done so before."""
        self._tasks.features.use(features)

    def put(self, tasks: Sequence[NewTask], session: Any = None) -> Sequence[PutReply]:
        """See `Store.put`. Trips: 1 per 1,000 tasks; 1 to 3 more with parents. Clock: server."""
        if session is not None and getattr(session, "client", None) is not self.client:
            raise OptionInvalid("session", session, "a session of this app's own client (app.client.start_session())")
        if session is not None and not session.in_transaction:
            raise OptionInvalid("session", session, "a session in a transaction (session.start_transaction())")
        return putting.put(self._tasks, tasks, self.now(), session)

    def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
        """See `Store.claim`."""
        if ask.limits is not None:
            if ask.heeds_pause and self.paused([ask.queue]):
                return Claimed((), more=False, paused=True)
            self.use({"limits"})
            return shelf.claim(self._tasks, ask, ask.limits)
        return claiming.claim(self._tasks, ask, taking)

    def abandon(self, unknown: ClaimUnknown) -> int:
        """See `Store.abandon`."""
        return claiming.abandon(self._tasks, unknown)

    def extend(self, claims: Sequence[Claim]) -> list[ObjectId]:
        """See `Store.extend`."""
        return claiming.extend(self._tasks, claims) if claims else []

    def renew(self, claim: Claim) -> Renewed:
        """See `Store.renew`."""
        return claiming.renew(self._tasks, claim)

    def pause(self, queue: str, paused: bool) -> None:
        """See `Store.pause`."""
        controlling.pause(self._tasks, queue, paused)

    def paused(self, queues: Sequence[str] | None) -> list[str]:
        """See `Store.paused`."""
        return [] if queues is not None and not queues else controlling.paused(self._tasks, queues)

    def report(self, reports: Sequence[Reported]) -> list[ObjectId]:
        """See `Store.report`."""
        return reporting.report(self._tasks, reports) if reports else []

    def settle(self, settlements: Sequence[Settlement]) -> list[Verdict]:
        """See `Store.settle`."""
        return settling.settle(self._tasks, settlements) if settlements else []

    def cancel(self, ids: Sequence[ObjectId]) -> list[CancelReply]:
        """See `Store.cancel`."""
        return cancelling.cancel(self._tasks, ids)

    def asked(self, claims: Sequence[Claim]) -> list[ObjectId]:
        """See `Store.asked`."""
        return cancelling.asked(self._tasks, claims) if claims else []

    def transaction_s(self) -> float:
        """See `Store.transaction_s`. Trips: 1 at the first call."""
        if self._transaction_s is None:
            with reading("ask how long transactions may be"):
                self._transaction_s = transactions.lifetime_s(self.client, self._tasks)
        return self._transaction_s

    def begin(self) -> ClientSession:
        """See `Store.begin`. Trips: 0."""
        return transactions.begin(self.client, self._tasks)

    def commit(self, session: ClientSession, settlement: Settlement) -> Verdict:
        """See `Store.commit`."""
        return transactions.commit(self._tasks, session, settlement)

    def abort(self, session: ClientSession, error: BaseException | None) -> str | None:
        """See `Store.abort`. Trips: 1."""
        return transactions.abort(self._tasks, session, error)

    def tick(self, releases: bool = True) -> Tick:
        """See `Store.tick`."""
        done = ticking.tick(self._tasks, releases=releases)
        if self._dead is None:
            return done
        stuck: list[Refused] = []
        try:
            dead_letters.bury(self._tasks, stuck)
        except StoreError as error:
            stuck.append(Refused("dead letters", str(error)))
        return msgspec.structs.replace(done, refused=(*done.refused, *stuck)) if stuck else done

    def due(self, most: int, *, whole: bool = False) -> Due:
        """See `Store.due`. Trips: 1."""
        return releasing.due(self._tasks, most, whole=whole)

    def claim_due(self, ask: Ask, found: Sequence[TaskDocument]) -> Claimed:
        """See `Store.claim_due`."""
        return claiming.claim_due(self._tasks, ask, found)  # type: ignore[arg-type]

    def overdue(self) -> Overdue:
        """See `Store.overdue`. Trips: 1."""
        return releasing.overdue(self._tasks)

    def release_due(self, ids: Sequence[Any], queues: Sequence[str] = ()) -> Released:
        """See `Store.release_due`. Trips: 1, and 1 for each of `queues`."""
        return releasing.release_due(self._tasks, ids, queues)

    def flush(self) -> None:
        """See `Store.flush`. Trips: 1."""
        releasing.flush(self._tasks)

    def declare(self, schedules: Sequence[Schedule], by: str) -> None:
        """See `Store.declare`."""
        scheduling.declare(self._tasks, schedules, by, self.now())

    def fire(self, schedules: Sequence[Schedule], by: str) -> Firing:
        """See `Store.fire`."""
        return scheduling.fire(self._tasks, schedules, by, self.now())

    def schedules(self) -> list[ScheduleInfo]:
        """See `Store.schedules`."""
        return scheduling.schedules(self._tasks)

    def switch(self, name: str, enabled: bool, by: str) -> bool:
        """See `Store.switch`."""
        return scheduling.switch(self._tasks, name, enabled, by)

    def sweep(self) -> Tick:
        """See `Store.sweep`. Each call goes on where the last one ended."""
        tick, self._swept_to = following.sweep(self._tasks, self._swept_to)
        return tick

    def beat(self, member: Member) -> Roster:
        """See `Store.beat`. Trips: 2."""
        with reading("write the member's row"), self._tasks.deadline():
            self._tasks.durable.update_one({"_id": member.row_id}, beat_update(member), upsert=True)
            rows = list(self._tasks.quick.find(ROWS))
            now = next((row["beat_at"] for row in rows if row["_id"] == member.row_id), None) or self.now()
            # A row that has never beaten was made by a bell that rang after its member had left.
            beaten = [row for row in rows if isinstance(row.get("beat_at"), datetime)]
            recent = [row for row in beaten if now - row["beat_at"] <= timedelta(seconds=FORGOTTEN_S)]
            if len(recent) < len(rows):
                self._forget(now)
        return roster_of(beaten, member, now)

    def _forget(self, now: datetime) -> None:
        """Remove the rows that have not beaten for long; one that beats meanwhile stays."""
        lately = {"$gte": now - timedelta(seconds=FORGOTTEN_S)}
        try:
            self._tasks.quick.delete_many(ROWS | {"beat_at": {"$not": lately}})
        except OperationFailure as error:
            if not lacks_right(error):
                raise  # without the right, members that have it will

    def ring(self, member: Member, bell: str) -> None:
        """See `Store.ring`. Trips: 1."""
        with reading("ring the bell"), self._tasks.deadline():
            self._tasks.durable.update_one({"_id": member.row_id}, {"$set": {"bell": bell}}, upsert=True)

    def leave(self, member: Member) -> None:
        """See `Store.leave`. Trips: 1; 2 without the right to remove."""
        with reading("remove the member's row"), self._tasks.deadline():
            try:
                self._tasks.durable.delete_one({"_id": member.row_id})
            except OperationFailure as error:
                if not lacks_right(error):
                    raise
                # A row that does not beat is no member's; who may remove rows forgets it.
                self._tasks.durable.update_one({"_id": member.row_id}, {"$unset": {"beat_at": ""}})

    def feed(self, interest: Interest, await_s: float | None = None) -> MongoFeed:
        """See `Store.feed`. Trips: 1."""
        return MongoFeed(self._tasks.committed, interest, await_s, self._tasks.timeout_s)

    @property
    def has_tail(self) -> bool:
        """See `Store.has_tail`."""
        return self._tasks.wakes is not None

    def tail(self, queues: Sequence[str], bell: str, await_s: float | None = None) -> TailFeed:
        """See `Store.tail`. Trips: 3."""
        assert self._tasks.wakes is not None  # `has_tail`
        return self._tasks.wakes.feed(queues, bell, await_s)

    def ring_tail(self, bell: str) -> None:
        """See `Store.ring_tail`. Trips: 1."""
        if self._tasks.wakes is not None:
            self._tasks.wakes.ring(bell)

    def queues_behind(self, queues: Sequence[str]) -> list[str]:
        """See `Store.queues_behind`. Trips: 1; one index probe a queue."""
        if not queues:
            return []
        with reading("scan for ready tasks"), self._tasks.deadline():
            found = self._tasks.quick.distinct("queue", queries.behind(queues))
            return [queue for queue in queues if queue in found]

    def still_ready(self, ids: Sequence[ObjectId]) -> list[ObjectId]:
        """See `Store.still_ready`. Trips: 1."""
        with reading("look whether tasks are still ready"), self._tasks.deadline():
            return [one["_id"] for one in self._tasks.quick.find(queries.still_ready(ids), {"_id": 1})]

    def get(self, id: ObjectId) -> TaskDocument | None:
        """See `Store.get`. Trips: 1."""
        with reading("read a task"), self._tasks.deadline():
            wanted = {"_id": id, "status": {"$exists": True}}
            document = self._tasks.committed.find_one(wanted)
            if document is None and self._dead is not None:
                # Moved there; or, between the two looks, moved back.
                document = self._dead.committed.find_one(wanted) or self._tasks.committed.find_one(wanted)
            return None if document is None else looking.as_task(document)

    def wait_for(self, id: ObjectId, member_id: str) -> TaskDocument | None:
        """See `Store.wait_for`. Trips: 1, or 3 when the put did not name this member."""
        document = self.get(id)
        if document is None or document["status"] in TERMINAL or member_id in document.get("reply_to", ()):
            return document
        with writing("ask to be told of a task's end"), self._tasks.deadline():
            self._tasks.durable.update_one(
                {"_id": id, "status": {"$nin": list(TERMINAL)}}, {"$addToSet": {"reply_to": member_id}}
            )
        return self.get(id)

    def find(self, search: Search, *, limit: int, after: ObjectId | None = None) -> list[TaskDocument]:
        """See `Store.find`."""
        return looking.find(self._tasks, search, limit, after)

    def page(self, search: Search, after: ObjectId | None = None) -> list[TaskDocument]:
        """See `Store.page`."""
        return looking.page(self._tasks, search, after)

    def ids(self, search: Search, *, limit: int, after: ObjectId | None = None) -> list[ObjectId]:
        """See `Store.ids`."""
        return looking.ids(self._tasks, search, limit, after)

    def peek(self, queue: str, *, limit: int, tail: bool = False) -> list[TaskDocument]:
        """See `Store.peek`."""
        return looking.peek(self._tasks, queue, limit, tail=tail)

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """See `Store.counts`."""
        return looking.counts(self._tasks)

    def counts_by_handler(self) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
        """See `Store.counts_by_handler`."""
        return looking.counts_by_handler(self._tasks)

    def delete(self, id: ObjectId, *, force: bool = False) -> Deleted:
        """See `Store.delete`."""
        return tending.delete(self._tasks, id, force=force)

    def purge(self, search: Search, older_than_s: float, after: ObjectId | None = None) -> Purged:
        """See `Store.purge`."""
        return tending.purge(self._tasks, search, older_than_s, after)

    def requeue(self, ids: Sequence[ObjectId], how: Requeue) -> list[Requeued]:
        """See `Store.requeue`."""
        return tending.requeue(self._tasks, ids, how)

    def free_key(self, queue: str, key: UniqueKey) -> bool:
        """See `Store.free_key`."""
        return tending.free_key(self._tasks, queue, key)

    def workers(self) -> list[WorkerView]:
        """See `Store.workers`. Trips: 2."""
        return checking.workers(self._tasks)

    def check(self, *, repair: bool = False) -> Checkup:
        """Check the server, the collection and the tasks; see `checking`."""
        return checking.check(self._database, self._tasks, self.indexes(), repair=repair)

    def indexes(self) -> tuple[Index, ...]:
        """Return the indexes of the tasks collection that this store needs. Trips: 1."""
        indexes = needed(self._tasks.features.announced())
        return indexes if self._dead is None else (*indexes, *DEAD_INDEXES)

    def dead_letters(self) -> MongoStore:
        """See `Store.dead_letters`."""
        if self._dead is None:
            raise UsageError(NO_DEAD_LETTERS)
        return DeadLetters(self, self._dead)

    def unclaimed(self) -> list[Unclaimed]:
        """See `Store.unclaimed`. Trips: 2; reads every ready task."""
        with reading("count tasks without a worker"), self._tasks.deadline():
            rows = [row for row in self._tasks.quick.aggregate(ROWS_WITH_AGE) if row["age_ms"] < alive_s(row) * 1000]
            groups = [
                (one["_id"].get("queue"), one["_id"].get("task"), int(one["count"]))
                for one in self._tasks.quick.aggregate(READY_BY_HANDLER)
            ]
        return unclaimed_of([served for row in rows for served in row.get("serves", ())], groups)

    def now(self) -> datetime:
        """See `Store.now`. Trips: 1 in 30 s, else 0."""
        return self._clock.now()

    def close(self) -> None:
        """See `Store.close`: a client that was passed in stays open."""
        if self._owns_client:
            self.client.close()

    def _ask_time(self) -> datetime:
        with reading("ask the server's time"), self._tasks.deadline():
            said: datetime = self._database.client.admin.command(
                "hello", codec_options=self._tasks.quick.codec_options
            )["localTime"]
        return said


class DeadLetters(MongoStore):
    """The dead letters of a store, as `contract.Records`: what is done on the road of a task is not done here."""

    def __init__(self, store: MongoStore, dead: Tasks) -> None:
        super().__init__(store.client, store._database.name, dead.durable.name, timeout_s=dead.timeout_s)
        self._clock = store._clock
        self._living = store._tasks

    def indexes(self) -> tuple[Index, ...]:
        """Return the indexes of the collection for dead letters. Trips: 0."""
        return LETTER_INDEXES

    def check(self, *, repair: bool = False) -> Checkup:
        """Check the server and the dead letters; see `checking`."""
        return checking.check(self._database, self._tasks, LETTER_INDEXES, (), repair=repair)

    def requeue(self, ids: Sequence[ObjectId], how: Requeue) -> list[Requeued]:
        """See `Store.requeue`: those that begin again are moved back."""
        return dead_letters.requeue(self._living, ids, how, self.now())

    def free_key(self, queue: str, key: UniqueKey) -> bool:
        """See `Store.free_key`: keys stand beside the living."""
        return tending.free_key(self._living, queue, key)

    def delete(self, id: ObjectId, *, force: bool = False) -> Deleted:
        """See `Store.delete`. Who waits for the end of a dead letter is told of it first."""
        return tending.delete(self._tasks, id, force=force, living=self._living)
