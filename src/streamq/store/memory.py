"""The store in memory: the same contract without a server, for the runtime's tests and for trying things out.

It uses the twins of the moves (`apply`), so that the conformance suite and the model test hold both stores together.
One thread only. Its clock is passed in.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import ObjectId
from bson.timestamp import Timestamp

from streamq.core.claim import Ask, Claim, claim_of
from streamq.core.document import READY, RUNNING, SUCCEEDED, TERMINAL, TaskDocument
from streamq.core.member import Member, Roster
from streamq.core.moves import cancel as cancel_move
from streamq.core.moves import claim as claim_move
from streamq.core.moves import expire, hold_key, replace
from streamq.core.moves import extend as extend_move
from streamq.core.moves import report as report_move
from streamq.core.moves import settle as settle_move
from streamq.core.moves.cancel import CancelReply
from streamq.core.moves.fence import is_followed, is_held
from streamq.core.moves.put import document_of
from streamq.core.moves.requeue import Requeue
from streamq.core.new_task import NewTask, PutReply
from streamq.core.parents import EXPECTED, KEYED, NO_FAMILY, Family
from streamq.core.report import Reported
from streamq.core.requeued import Requeued
from streamq.core.schedule import Schedule, ScheduleInfo
from streamq.core.search import Search
from streamq.core.settlement import Settlement, Verdict
from streamq.core.transitions import is_terminal
from streamq.core.unclaimed import Unclaimed
from streamq.core.unique_key import UniqueKey, held_id, stored_key
from streamq.core.wake import Wake
from streamq.core.wakes import Interest
from streamq.core.workers import WorkerView
from streamq.errors import ClaimUnknown, OptionInvalid, UsageError
from streamq.store import memory_following, memory_records, memory_roster, memory_scheduling, memory_ticking
from streamq.store.contract import (
    NO_DEAD_LETTERS,
    Claimed,
    Deleted,
    Due,
    Firing,
    Overdue,
    Purged,
    Released,
    Renewed,
    Taking,
    Tick,
)
from streamq.store.memory_books import MemoryBooks
from streamq.store.memory_feed import MemoryFeed
from streamq.store.memory_shelf import MemoryShelf


def _startable(
    ready: Sequence[TaskDocument], ask: Ask, now: datetime
) -> tuple[Sequence[TaskDocument], list[TaskDocument]]:
    """Return the head of the queue, and what of it may be claimed: what has expired unnoticed may not."""
    found = ready[: ask.limit]
    chosen = [one for place, one in enumerate(found) if place < ask.slots or not claim_move.is_delicate(one)]
    return found, [one for one in chosen if not expire.is_over(one, now)]


class MemoryStore(MemoryBooks):
    """Keeps `streamq.store.contract.Store` in dicts."""

    def __init__(self, now: Callable[[], datetime], *, dead_letters: bool = False) -> None:
        """`now` is its clock; with `dead_letters` failed tasks move to a dict of their own."""
        super().__init__(now, dead_letters=dead_letters)
        self._seq = 0
        self._paused: dict[str, bool] = {}

    def prepare(self) -> None:
        """Nothing to prepare."""

    def mend(self) -> list[str]:
        """Nothing to mend."""
        return []

    def put(self, tasks: Sequence[NewTask], session: Any = None) -> list[PutReply]:
        """See `Store.put`; there are no transactions here."""
        if session is not None:
            raise OptionInvalid("session", session, "None: the in-memory store has no transactions")
        family = self._family_of(tasks)
        return [self._put(one, family) for one in tasks]

    def _family_of(self, tasks: Sequence[NewTask]) -> Family:
        """`store.parents.family_of`, in memory."""
        earlier: dict[ObjectId, bool] = {}
        inside: set[ObjectId] = set()
        ends: dict[ObjectId, str] = {}
        seen: list[TaskDocument] = []
        for one in tasks:
            for id in one.options.parents:
                found = self.anywhere(id)
                if id == one.id:
                    raise OptionInvalid("after", id, "other tasks than the one that is put")
                if earlier.get(id, False):
                    raise OptionInvalid("after", id, KEYED)
                if id in earlier:
                    inside.add(id)
                elif found is not None:
                    seen.append(found)
                elif one.options.missing_parent == "satisfied" or one.id in self.documents:
                    ends[id] = SUCCEEDED
                else:
                    raise OptionInvalid("after", id, EXPECTED)
            earlier[one.id] = one.options.unique is not None
        for parent in seen:
            if is_terminal(parent["status"]):
                ends[parent["_id"]] = parent["status"]
            else:
                parent["has_children"] = True
        return Family(ends, inside)

    def _put(self, new: NewTask, family: Family) -> PutReply:
        if new.id in self.documents:
            return PutReply(new.id, "existing")
        document = copy.deepcopy(document_of(new, self.now(), family))
        holder = self._holder(document)
        if holder is not None:
            return self._meet(holder, new, document)
        self._seq += 1
        document["seq"] = Timestamp(1, self._seq)
        self.documents[new.id] = document
        self.tell(document, is_new=True)
        return PutReply(new.id)

    def _holder(self, new: TaskDocument) -> ObjectId | None:
        """Return which other task has the key of `new`; take a key that outlives its task if it is free."""
        if "unique_for_s" in new:
            id: ObjectId = hold_key.apply(self.meta, new, self.instant())["task_id"]
            return None if id == new["_id"] else id
        if "unique_lock" not in new:
            return None
        lock = (new["queue"], new["unique_lock"])
        having = (one["_id"] for one in self.documents.values() if (one["queue"], one.get("unique_lock")) == lock)
        return next(having, None)

    def _meet(self, id: ObjectId, new: NewTask, document: TaskDocument) -> PutReply:
        twin = self.documents.get(id)
        if new.options.on_conflict != "replace" or twin is None or not replace.is_replaceable(twin):
            return PutReply(id, "refused" if new.options.on_conflict == "raise" else "existing")
        replace.apply(twin, document)
        self.tell(twin)
        return PutReply(id, "replaced")

    def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
        """See `Store.claim`. What it takes is taken before anyone could be told."""
        if ask.heeds_pause and self.paused([ask.queue]):
            return Claimed((), more=False, paused=True)
        now = self.instant()
        if ask.limits is not None:
            return MemoryShelf(self.documents, self.buckets, ask, now, self.tell).claim(ask.limits)
        ready = [document for document in self.documents.values() if claim_move.is_ready(document, ask, now)]
        if ask.is_for_one and not ask.durable:
            ready = [document for document in ready if not claim_move.is_delicate(document)]
        ready.sort(key=lambda document: (-document["priority"], document["seq"]))
        found, chosen = _startable(ready, ask, now)
        if not chosen:
            found, chosen = _startable([one for one in ready if not expire.is_over(one, now)], ask, now)
        claims = tuple(self._begin(document, ask, now) for document in chosen)
        full = ask.ids is None and (len(found) == ask.limit or len(claims) < len(found))
        return Claimed(claims, more=full)

    def _begin(self, document: TaskDocument, ask: Ask, now: datetime) -> Claim:
        claim_move.apply(document, ask, now)
        return claim_of(
            copy.deepcopy(document),
            claim_id=ask.claim_id,
            lease_s=ask.lease_of(document["task"]),
            attempt=document["attempt"],
        )

    def abandon(self, unknown: ClaimUnknown) -> int:
        """See `Store.abandon`."""
        found = (self.documents.get(id) for id in unknown.ids)
        held = [one for one in found if one is not None and is_held(one, unknown.queue, unknown.claim_id)]
        return len(
            self.settle(
                [Settlement(one["_id"], unknown.queue, unknown.claim_id, "release", frees=True) for one in held]
            )
        )

    def extend(self, claims: Sequence[Claim]) -> list[ObjectId]:
        """See `Store.extend`."""
        lost = []
        now = self.instant()
        for one in claims:
            document = self.documents.get(one.id)
            if document is None or not is_held(document, one.queue, one.claim_id):
                lost.append(one.id)
            else:
                extend_move.apply(document, one.lease_s, now)
        return lost

    def renew(self, claim: Claim) -> Renewed:
        """See `Store.renew`."""
        if self.extend([claim]):
            return "lost"
        return "asked" if "cancel_to" in self.documents[claim.id] else "held"

    def pause(self, queue: str, paused: bool) -> None:
        """See `Store.pause`."""
        if self._paused.get(queue) != paused:
            self._paused[queue] = paused
            for feed in list(self.feeds):
                if queue in feed.interest.queues:
                    feed.tell(Wake("pause" if paused else "resume", queue=queue))

    def paused(self, queues: Sequence[str] | None) -> list[str]:
        """See `Store.paused`."""
        return sorted(name for name, is_so in self._paused.items() if is_so and (queues is None or name in queues))

    def report(self, reports: Sequence[Reported]) -> list[ObjectId]:
        """See `Store.report`."""
        lost = []
        for one in reports:
            document = self.documents.get(one.claim.id)
            if document is None or not is_held(document, one.claim.queue, one.claim.claim_id):
                lost.append(one.claim.id)
            else:
                report_move.apply(document, one.report, one.claim.lease_s, self.instant())
        return lost

    def settle(self, settlements: Sequence[Settlement]) -> list[Verdict]:
        """See `Store.settle`."""
        return [self._settle(one) for one in settlements]

    def _settle(self, settlement: Settlement) -> Verdict:
        document = self.anywhere(settlement.id)
        if document is None:
            return "unknown" if settlement.deletes else "lost"
        if not is_held(document, settlement.queue, settlement.claim_id):
            return "settled" if document.get("settled_by") == settlement.claim_id else "lost"
        if settlement.deletes and not is_followed(document):
            del self.documents[settlement.id]
            return "settled"
        settle_move.apply(document, copy.deepcopy(settlement), self.instant())
        self.tell(document)
        self.bury(document)
        return "settled"

    def cancel(self, ids: Sequence[ObjectId]) -> list[CancelReply]:
        """See `Store.cancel`."""
        return [self._cancel(self.anywhere(id)) for id in ids]

    def _cancel(self, document: TaskDocument | None) -> CancelReply:
        if document is not None and document["status"] in cancel_move.WAITING:
            cancel_move.apply(document, self.instant())
            self.tell(document)
        elif document is not None and document["status"] == RUNNING and "cancel_to" not in document:
            cancel_move.apply_ask(document)
            self.tell(document)
        reply = cancel_move.reply_of(document)
        assert reply is not None
        return reply

    def asked(self, claims: Sequence[Claim]) -> list[ObjectId]:
        """See `Store.asked`."""
        found = [(one, self.documents.get(one.id)) for one in claims]
        return [
            one.id
            for one, document in found
            if document is not None and "cancel_to" in document and is_held(document, one.queue, one.claim_id)
        ]

    def transaction_s(self) -> float:
        """See `Store.transaction_s`."""
        return 60.0

    def begin(self) -> Any:
        """See `Store.begin`; there are no transactions here."""
        raise UsageError("the in-memory store has no transactions: test this on a server (StreamQ.embedded())")

    def commit(self, session: Any, settlement: Settlement) -> Verdict:
        """See `Store.commit`: nothing is ever begun here."""
        raise UsageError("the in-memory store has no transactions")

    def abort(self, session: Any, error: BaseException | None) -> str | None:
        """See `Store.abort`: nothing is ever begun here."""
        return None

    def tick(self, releases: bool = True) -> Tick:
        """See `Store.tick`."""
        return memory_ticking.tick(self, releases)

    def due(self, most: int, *, whole: bool = False) -> Due:
        """See `Store.due`."""
        return memory_ticking.due(self, most, whole=whole)

    def claim_due(self, ask: Ask, found: Sequence[TaskDocument]) -> Claimed:
        """See `Store.claim_due`."""
        now = self.instant()
        there = [(self.documents[one["_id"]], one) for one in found if one["_id"] in self.documents]
        chosen = [
            one for one, read in there if claim_move.is_as_read(one, read, ask, now) and not expire.is_over(one, now)
        ]
        return Claimed(tuple(self._begin(one, ask, now) for one in chosen), more=False)

    def overdue(self) -> Overdue:
        """See `Store.overdue`."""
        return memory_ticking.overdue(self)

    def release_due(self, ids: Sequence[Any], queues: Sequence[str] = ()) -> Released:
        """See `Store.release_due`."""
        return memory_ticking.release(self, ids, queues)

    def flush(self) -> None:
        """See `Store.flush`: all that is written is told at once."""

    def sweep(self) -> Tick:
        """See `Store.sweep`."""
        return memory_ticking.sweep(self)

    def declare(self, schedules: Sequence[Schedule], by: str) -> None:
        """See `Store.declare`."""
        memory_scheduling.declare(self, schedules, by)

    def fire(self, schedules: Sequence[Schedule], by: str) -> Firing:
        """See `Store.fire`."""
        return memory_scheduling.fire(self, schedules, by, lambda new: self._put(new, NO_FAMILY))

    def schedules(self) -> list[ScheduleInfo]:
        """See `Store.schedules`."""
        return memory_scheduling.schedules(self)

    def switch(self, name: str, enabled: bool, by: str) -> bool:
        """See `Store.switch`."""
        return memory_scheduling.switch(self, name, enabled, by)

    def beat(self, member: Member) -> Roster:
        """See `Store.beat`."""
        return memory_roster.beat(self, member)

    def ring(self, member: Member, bell: str) -> None:
        """See `Store.ring`."""
        for feed in list(self.feeds):
            if feed.interest.bell == bell:
                feed.tell(Wake("bell"))

    def leave(self, member: Member) -> None:
        """See `Store.leave`."""
        memory_roster.leave(self, member)

    def feed(self, interest: Interest, await_s: float | None = None) -> MemoryFeed:
        """See `Store.feed`."""
        feed = MemoryFeed(interest, self.feeds.remove)
        self.feeds.append(feed)
        return feed

    @property
    def has_tail(self) -> bool:
        """See `Store.has_tail`. Its feeds tell at once: whatever an app says of its wakes, there is nothing sooner."""
        return False

    def tail(self, queues: Sequence[str], bell: str, await_s: float | None = None) -> MemoryFeed:
        """See `Store.tail`: there is none."""
        raise UsageError("the store in memory has no wake channel beside its feeds")

    def ring_tail(self, bell: str) -> None:
        """See `Store.ring_tail`: nobody hears it."""

    def queues_behind(self, queues: Sequence[str]) -> list[str]:
        """See `Store.queues_behind`."""
        ready = {document["queue"] for document in self.documents.values() if document["status"] == READY}
        return [queue for queue in queues if queue in ready]

    def still_ready(self, ids: Sequence[ObjectId]) -> list[ObjectId]:
        """See `Store.still_ready`."""
        return [id for id in ids if id in self.documents and self.documents[id]["status"] == READY]

    def get(self, id: ObjectId) -> TaskDocument | None:
        """See `Store.get`."""
        return copy.deepcopy(self.anywhere(id))

    def wait_for(self, id: ObjectId, member_id: str) -> TaskDocument | None:
        """See `Store.wait_for`."""
        document = self.anywhere(id)
        waits = document is not None and document["status"] not in TERMINAL
        if document is not None and waits and member_id not in document.get("reply_to", ()):
            document["reply_to"] = [*document.get("reply_to", ()), member_id]
        return copy.deepcopy(document)

    def find(self, search: Search, *, limit: int, after: ObjectId | None = None) -> list[TaskDocument]:
        """See `Store.find`."""
        return memory_records.find(self.documents, search, limit, after)

    def page(self, search: Search, after: ObjectId | None = None) -> list[TaskDocument]:
        """See `Store.page`."""
        return memory_records.find(self.documents, search, memory_records.MOST_A_PAGE, after)

    def ids(self, search: Search, *, limit: int, after: ObjectId | None = None) -> list[ObjectId]:
        """See `Store.ids`."""
        return memory_records.ids(self.documents, search, limit, after)

    def peek(self, queue: str, *, limit: int, tail: bool = False) -> list[TaskDocument]:
        """See `Store.peek`."""
        return memory_records.peek(self.documents, queue, limit, tail=tail)

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """See `Store.counts`."""
        return memory_records.counts(self.documents.values())

    def counts_by_handler(self) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
        """See `Store.counts_by_handler`."""
        return memory_records.counts_by_handler(self.documents.values())

    def delete(self, id: ObjectId, *, force: bool = False) -> Deleted:
        """See `Store.delete`."""
        document = self.documents.get(id)
        if document is not None and force:
            self.free(document)
        deleted = memory_records.delete(self.documents, id, force=force)
        if document is not None and deleted == "deleted":
            self._leave_followers(document)
        return deleted

    def _leave_followers(self, deleted: TaskDocument) -> None:
        memory_following.leave_followers(self, deleted)

    def purge(self, search: Search, older_than_s: float, after: ObjectId | None = None) -> Purged:
        """See `Store.purge`."""
        return memory_records.purge(self.documents, search, older_than_s, after, self.instant())

    def requeue(self, ids: Sequence[ObjectId], how: Requeue) -> list[Requeued]:
        """See `Store.requeue`."""
        requeued = memory_records.requeue(self.documents, ids, how, self.instant())
        for one in requeued:
            if one.verdict == "requeued":
                self.tell(self.documents[one.id])
        return requeued

    def free_key(self, queue: str, key: UniqueKey) -> bool:
        """See `Store.free_key`."""
        id = held_id(queue, stored_key(key))
        if not hold_key.is_held(self.meta.get(id), self.instant()):
            return False
        del self.meta[id]
        return True

    def unclaimed(self) -> list[Unclaimed]:
        """See `Store.unclaimed`."""
        return memory_roster.unclaimed(self)

    def dead_letters(self) -> MemoryStore:
        """See `Store.dead_letters`."""
        if self.dead is None:
            raise UsageError(NO_DEAD_LETTERS)
        return MemoryDeadLetters(self, self.dead)

    def workers(self) -> list[WorkerView]:
        """See `Store.workers`."""
        return memory_roster.workers(self)

    def close(self) -> None:
        """Nothing to give back."""


class MemoryDeadLetters(MemoryStore):
    """`mongo.DeadLetters`, in memory."""

    def __init__(self, living: MemoryStore, dead: dict[ObjectId, TaskDocument]) -> None:
        super().__init__(living._clock)
        self.documents = dead
        self._living = living

    def requeue(self, ids: Sequence[ObjectId], how: Requeue) -> list[Requeued]:
        """See `Store.requeue`: those that begin again are moved back."""
        return [self._requeue(id, how) for id in ids]

    def _requeue(self, id: ObjectId, how: Requeue) -> Requeued:
        now, document = self.instant(), self.documents.get(id)
        if document is None or ("lifetime_until" in document and document["lifetime_until"] <= now):
            return Requeued(id, "gone")
        if id in self._living.documents:
            return Requeued(id, "not terminal")
        (became,) = memory_records.requeue(self._living.documents | {id: document}, [id], how, now)
        if became.verdict == "requeued":
            self._living.documents[id] = self.documents.pop(id)
            self._living.tell(document, is_new=True)
        return became

    def free_key(self, queue: str, key: UniqueKey) -> bool:
        """See `Store.free_key`: keys stand beside the living."""
        return self._living.free_key(queue, key)

    def _leave_followers(self, deleted: TaskDocument) -> None:
        self._living._leave_followers(deleted)
