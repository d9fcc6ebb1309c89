"""The store in memory: the same contract without a server, for the runtime's tests and for trying things out.

It uses the twins of the moves (`apply`), so that the conformance suite and the model test hold both stores together.
One thread only. Its clock is passed in.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from bson import ObjectId
from bson.timestamp import Timestamp

from streamq.core.claim import Ask, Claim, claim_of
from streamq.core.document import BLOCKED, DELAYED, FAILED, READY, RUNNING, SUCCEEDED, TERMINAL, WAITING, TaskDocument
from streamq.core.member import Member, Roster
from streamq.core.moves import cancel as cancel_move
from streamq.core.moves import claim as claim_move
from streamq.core.moves import (
    expire,
    free,
    hold_key,
    mark,
    promote,
    recur,
    release_due,
    replace,
    retain,
    take_back,
    unblock,
)
from streamq.core.moves import extend as extend_move
from streamq.core.moves import report as report_move
from streamq.core.moves import settle as settle_move
from streamq.core.moves.cancel import CancelReply
from streamq.core.moves.fence import is_followed, is_held
from streamq.core.moves.put import document_of, whole_ms
from streamq.core.moves.requeue import Requeue
from streamq.core.moves.token import Bucket
from streamq.core.new_task import NewTask, PutReply
from streamq.core.parents import EXPECTED, GONE, KEYED, NO_FAMILY, Ends, Family
from streamq.core.report import Reported
from streamq.core.requeued import Requeued
from streamq.core.schedule import PREFIX, Row, Schedule, ScheduleInfo, info_of, row_of
from streamq.core.search import Search
from streamq.core.settlement import Settlement, Verdict
from streamq.core.transitions import is_terminal
from streamq.core.unclaimed import Unclaimed, unclaimed_of
from streamq.core.unique_key import UniqueKey, held_id, stored_key
from streamq.core.wake import Wake
from streamq.core.wakes import Interest, by_urgency, wake_of_document, wake_of_due
from streamq.core.workers import WorkerView, workers_of
from streamq.errors import ClaimUnknown, OptionInvalid, UsageError
from streamq.store import memory_records
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
from streamq.store.memory_shelf import MemoryShelf


class MemoryFeed:
    """What a stream would tell, in a deque. `on_wake` is called at each event, in the writer's thread."""

    def __init__(self, interest: Interest, forget: Callable[[MemoryFeed], None]) -> None:
        self.interest = interest
        self.wakes: deque[Wake] = deque()
        self.on_wake: Callable[[], None] | None = None
        self._forget = forget

    def read(self) -> Wake | None:
        """Return the next wake; None when there is none: it does not wait."""
        return self.wakes.popleft() if self.wakes else None

    def tell(self, wake: Wake) -> None:
        """Add a wake and poke the reader."""
        self.wakes.append(wake)
        if self.on_wake is not None:
            self.on_wake()

    def close(self) -> None:
        """Hear no more."""
        self._forget(self)


def _startable(
    ready: Sequence[TaskDocument], ask: Ask, now: datetime
) -> tuple[Sequence[TaskDocument], list[TaskDocument]]:
    """Return the head of the queue, and what of it may be claimed: what has expired unnoticed may not."""
    found = ready[: ask.limit]
    chosen = [one for place, one in enumerate(found) if place < ask.slots or not claim_move.is_delicate(one)]
    return found, [one for one in chosen if not expire.is_over(one, now)]


def _ahead_s(instants: Sequence[datetime], now: datetime) -> float | None:
    return max(0.0, (min(instants) - now).total_seconds()) if instants else None


def _has_mark_of_end(document: TaskDocument) -> bool:
    """Say whether followers have yet to learn how a task ended; `queries.SEEN_TO` leaves such out."""
    return is_terminal(document["status"]) and "follow_up" in document


class MemoryStore:
    """Keeps `streamq.store.contract.Store` in a dict."""

    def __init__(self, now: Callable[[], datetime], *, dead_letters: bool = False) -> None:
        """`now` is its clock; with `dead_letters` failed tasks move to a dict of their own."""
        self._clock = now
        self._seq = 0
        self._feeds: list[MemoryFeed] = []
        self._paused: dict[str, bool] = {}
        self.documents: dict[ObjectId, TaskDocument] = {}
        self.dead: dict[ObjectId, TaskDocument] | None = {} if dead_letters else None
        self.members: dict[str, Member] = {}
        self.beats: dict[str, tuple[datetime, datetime]] = {}  # of each row, the first and the last
        self.meta: dict[str, dict[str, Any]] = {}
        self.buckets: dict[str, Bucket] = {}

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
                found = self._anywhere(id)
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

    def _anywhere(self, id: ObjectId) -> TaskDocument | None:
        """Find a task, also among the dead letters."""
        return self.documents.get(id) or (self.dead or {}).get(id)

    def _bury(self, document: TaskDocument) -> None:
        """Move a task that has just ended to the dead letters, if it failed and they have a place of their own."""
        if self.dead is not None and document["status"] == FAILED:
            document.pop("remove_at", None)
            self.dead[document["_id"]] = self.documents.pop(document["_id"])

    def _put(self, new: NewTask, family: Family) -> PutReply:
        if new.id in self.documents:
            return PutReply(new.id, "existing")
        document = copy.deepcopy(document_of(new, self._clock(), family))
        holder = self._holder(document)
        if holder is not None:
            return self._meet(holder, new, document)
        self._seq += 1
        document["seq"] = Timestamp(1, self._seq)
        self.documents[new.id] = document
        self._tell(document, is_new=True)
        return PutReply(new.id)

    def _holder(self, new: TaskDocument) -> ObjectId | None:
        """Return which other task has the key of `new`; take a key that outlives its task if it is free."""
        if "unique_for_s" in new:
            id: ObjectId = hold_key.apply(self.meta, new, whole_ms(self._clock()))["task_id"]
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
        self._tell(twin)
        return PutReply(id, "replaced")

    def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
        """See `Store.claim`. What it takes is taken before anyone could be told."""
        if ask.heeds_pause and self.paused([ask.queue]):
            return Claimed((), more=False, paused=True)
        now = whole_ms(self._clock())
        if ask.limits is not None:
            return MemoryShelf(self.documents, self.buckets, ask, now, self._tell).claim(ask.limits)
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
        now = whole_ms(self._clock())
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
            for feed in list(self._feeds):
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
                report_move.apply(document, one.report, one.claim.lease_s, whole_ms(self._clock()))
        return lost

    def settle(self, settlements: Sequence[Settlement]) -> list[Verdict]:
        """See `Store.settle`."""
        return [self._settle(one) for one in settlements]

    def _settle(self, settlement: Settlement) -> Verdict:
        document = self._anywhere(settlement.id)
        if document is None:
            return "unknown" if settlement.deletes else "lost"
        if not is_held(document, settlement.queue, settlement.claim_id):
            return "settled" if document.get("settled_by") == settlement.claim_id else "lost"
        if settlement.deletes and not is_followed(document):
            del self.documents[settlement.id]
            return "settled"
        settle_move.apply(document, copy.deepcopy(settlement), whole_ms(self._clock()))
        self._tell(document)
        self._bury(document)
        return "settled"

    def cancel(self, ids: Sequence[ObjectId]) -> list[CancelReply]:
        """See `Store.cancel`."""
        return [self._cancel(self._anywhere(id)) for id in ids]

    def _cancel(self, document: TaskDocument | None) -> CancelReply:
        if document is not None and document["status"] in cancel_move.WAITING:
            cancel_move.apply(document, whole_ms(self._clock()))
            self._tell(document)
        elif document is not None and document["status"] == RUNNING and "cancel_to" not in document:
            cancel_move.apply_ask(document)
            self._tell(document)
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
        now = whole_ms(self._clock())
        released: list[tuple[ObjectId, str]] = []
        failed = expired = removed = 0
        due_s = None if releases else _ahead_s(self._dues(), now)
        ahead = _ahead_s(self._ends() + (self._dues() if releases else []), now)
        for document in list(self.documents.values()):
            if "lifetime_until" in document and document["lifetime_until"] <= now:
                if not _has_mark_of_end(document):
                    self._free(document)
                    del self.documents[document["_id"]]
                    self._mark_followers(document)
                    removed += 1
                continue
            if expire.is_expired(document, now):
                expire.apply(document, now)
                expired += 1
            elif releases and release_due.is_due(document, now):
                release_due.apply(document, now)
            elif take_back.is_ended(document, now):
                take_back.apply(document, now)
                failed += document["status"] == FAILED
            else:
                continue
            if document["status"] == READY:
                released.append((document["_id"], document["queue"]))
            self._tell(document)
            self._bury(document)
        everywhere = [*self.documents.values(), *(self.dead or {}).values()]
        marked = [document for document in everywhere if "follow_up" in document]
        if marked:
            released += self._follow_up(marked, now)
            ahead = 0.0
        return Tick(tuple(released), failed, ahead, followed=len(marked), expired=expired, removed=removed, due_s=due_s)

    def due(self, most: int, *, whole: bool = False) -> Due:
        """See `Store.due`."""
        now = whole_ms(self._clock())
        first = sorted(self._all_due(now), key=lambda one: one["due_at"])[:most]
        found = sorted(first, key=by_urgency)
        later = [instant for instant in self._dues() if instant > now]
        ahead = 0.0 if len(found) == most else _ahead_s(later, now)
        read = [copy.deepcopy(one) for one in found] if whole else []
        return Due(tuple(wake_of_due(one) for one in found), ahead, found=tuple(read))

    def claim_due(self, ask: Ask, found: Sequence[TaskDocument]) -> Claimed:
        """See `Store.claim_due`."""
        now = whole_ms(self._clock())
        there = [(self.documents[one["_id"]], one) for one in found if one["_id"] in self.documents]
        chosen = [
            one for one, read in there if claim_move.is_as_read(one, read, ask, now) and not expire.is_over(one, now)
        ]
        return Claimed(tuple(self._begin(one, ask, now) for one in chosen), more=False)

    def overdue(self) -> Overdue:
        """See `Store.overdue`. It reads all."""
        found = self._all_due(whole_ms(self._clock()))
        return Overdue(tuple(one["_id"] for one in found), tuple({one["queue"] for one in found}), more=False)

    def _all_due(self, now: datetime) -> list[TaskDocument]:
        return [document for document in self.documents.values() if release_due.is_due(document, now)]

    def release_due(self, ids: Sequence[Any]) -> Released:
        """See `Store.release_due`."""
        now = whole_ms(self._clock())
        found = [self.documents[id] for id in ids if id in self.documents]
        due = [document for document in found if release_due.is_due(document, now)]
        for document in due:
            release_due.apply(document, now)
            self._tell(document)
        return Released(len(due))

    def flush(self) -> None:
        """See `Store.flush`: all that is written is told at once."""

    def _follow_up(self, marked: Sequence[TaskDocument], now: datetime) -> list[tuple[ObjectId, str]]:
        """`store.following.follow_up`, in memory."""
        ended = [document for document in marked if is_terminal(document["status"])]
        waiting = [document for document in marked if not is_terminal(document["status"])]
        ends: Ends = {document["_id"]: document["status"] for document in ended}
        parents = {id for document in waiting for id in document.get("blocked_by", ())}
        released = self._unblock(list(self.documents.values()), ends, now)
        released += self._look_at_parents(waiting, parents, now)
        released += self._promote(marked, now)
        for document in waiting:
            if not is_terminal(document["status"]):
                document.pop("follow_up", None)
        for document in ended:
            if document["_id"] in self.documents:
                retain.apply(document, now)
            else:
                del document["follow_up"]  # it is kept anyway
        return released

    def _look_at_parents(
        self, waiting: Sequence[TaskDocument], parents: Iterable[ObjectId], now: datetime
    ) -> list[tuple[ObjectId, str]]:
        ends: dict[ObjectId, str] = {}
        for id in parents:
            parent = self._anywhere(id)
            if parent is None:
                ends[id] = GONE
            elif is_terminal(parent["status"]):
                ends[id] = parent["status"]
            else:
                parent["has_children"] = True
        return self._unblock(waiting, ends, now)

    def _unblock(self, tasks: Sequence[TaskDocument], ends: Ends, now: datetime) -> list[tuple[ObjectId, str]]:
        released = []
        for document in tasks:
            if unblock.is_child(document, ends):
                unblock.apply(document, ends, now)
                self._tell(document)
                self._bury(document)
                if document["status"] == READY:
                    released.append((document["_id"], document["queue"]))
        return released

    def _mark_followers(self, removed: TaskDocument) -> None:
        """`store.following.mark_followers`, in memory."""
        children = [one for one in self.documents.values() if unblock.is_child(one, {removed["_id"]: GONE})]
        followers = children if removed.get("has_children") is True else []
        if "group" in removed:
            group = (removed["queue"], removed["group"])
            waiting = [one for one in self.documents.values() if one["status"] == BLOCKED]
            of_group = [one for one in waiting if (one["queue"], one.get("group")) == group]
            followers = [*followers, *sorted(of_group, key=lambda one: one["seq"])[:1]]
        for document in followers:
            mark.apply(document)
            self._tell(document)

    def sweep(self) -> Tick:
        """See `Store.sweep`: all in one page."""
        blocked = [document for document in self.documents.values() if document["status"] == BLOCKED]
        parents = {id for document in blocked for id in document.get("blocked_by", ())}
        now = whole_ms(self._clock())
        released = self._look_at_parents(blocked, parents, now) + self._promote(blocked, now)
        return Tick(tuple(released), 0, None)

    def _promote(self, documents: Iterable[TaskDocument], now: datetime) -> list[tuple[ObjectId, str]]:
        """`store.grouping.promote`, in memory."""
        released = []
        for queue, group in dict.fromkeys((one["queue"], one["group"]) for one in documents if "group" in one):
            of_group = [one for one in self.documents.values() if (one["queue"], one.get("group")) == (queue, group)]
            waiting = [one for one in of_group if one["status"] == BLOCKED]
            first = min(waiting, key=lambda one: one["seq"], default=None)
            if first is None or not promote.may_take_turn(first) or any("group_lock" in one for one in of_group):
                continue
            promote.apply(first, now)
            self._tell(first)
            if first["status"] == READY:
                released.append((first["_id"], queue))
        return released

    def _dues(self) -> list[datetime]:
        return [document["due_at"] for document in self.documents.values() if document["status"] == DELAYED]

    def _ends(self) -> list[datetime]:
        instants: list[datetime] = []
        for document in self.documents.values():
            if document["status"] == RUNNING:
                instants.append(document["lease_until"])
            if document["status"] in WAITING and document["attempt"] == 0 and "expires_at" in document:
                instants.append(document["expires_at"])
            if "lifetime_until" in document:
                instants.append(document["lifetime_until"])
        return instants

    def declare(self, schedules: Sequence[Schedule], by: str) -> None:
        """See `Store.declare`."""
        now = whole_ms(self._clock())
        written = [self._declare(one, by, now) for one in schedules]
        if any(written):
            self._announce()

    def _declare(self, schedule: Schedule, by: str, now: datetime) -> bool:
        row = self.meta.get(schedule.row_id)
        if row is None:
            self.meta[schedule.row_id] = recur.new_row(schedule, by, now)
            return True
        update = recur.declare(row, schedule, by, now)
        recur.apply(row, update or {})
        return update is not None

    def fire(self, schedules: Sequence[Schedule], by: str) -> Firing:
        """See `Store.fire`."""
        now = whole_ms(self._clock())
        fired: list[NewTask] = []
        skipped: list[tuple[str, datetime]] = []
        refused: list[Refused] = []
        ahead: list[float] = []
        for one in schedules:
            if one.row_id not in self.meta:
                self._declare(one, by, now)
            stored = self.meta[one.row_id]
            try:
                row = row_of(stored)
            except OptionInvalid as error:
                refused.append(Refused(one.row_id, str(error)))
                continue
            next_at = row.next_at
            if recur.is_due(row, now):
                shot = recur.fire(row, one.template, by, now, busy=self._is_busy(row))
                for new in shot.tasks:
                    self._put(new, NO_FAMILY)
                recur.apply(stored, shot.update)
                fired += shot.tasks
                skipped += [(one.name, slot) for slot in shot.skipped]
                next_at = shot.next_at
            if row.enabled and next_at is not None:
                ahead.append((next_at - now).total_seconds())
        return Firing(tuple(fired), tuple(skipped), min(ahead, default=None), tuple(refused))

    def _is_busy(self, row: Row) -> bool:
        if row.recurrence.overlap or row.last_id is None:
            return False
        before = self.documents.get(row.last_id)
        return before is not None and before["status"] not in TERMINAL

    def schedules(self) -> list[ScheduleInfo]:
        """See `Store.schedules`."""
        found = [info_of(self.meta[id]) for id in sorted(self.meta) if id.startswith(PREFIX)]
        return [one for one in found if one is not None]

    def switch(self, name: str, enabled: bool, by: str) -> bool:
        """See `Store.switch`."""
        stored = self.meta.get(PREFIX + name)
        if stored is None:
            return False
        update = recur.switch(row_of(stored), enabled, by, whole_ms(self._clock()))
        if update is not None:
            recur.apply(stored, update)
            self._announce()
        return True

    def _announce(self) -> None:
        for feed in list(self._feeds):
            if feed.interest.timers:
                feed.tell(Wake("schedule"))

    def beat(self, member: Member) -> Roster:
        """See `Store.beat`: everyone here is alive."""
        before = self.members.get(member.row_id)
        if before is None or before.lease_s != member.lease_s:
            for feed in self._feeds:
                if feed.interest.timers:
                    came, serves = ("", None) if before else (member.row_id, member.serves)
                    feed.tell(Wake("member", lease_s=member.lease_s, member=came, serves=serves))
        self.members[member.row_id] = member
        now = whole_ms(self._clock())
        self.beats[member.row_id] = (self.beats.get(member.row_id, (now, now))[0], now)
        workers = sorted(id for id, one in self.members.items() if one.queues)
        rank = workers.index(member.row_id) if member.row_id in workers else len(workers)
        others = tuple((id, one.serves) for id, one in self.members.items() if id != member.row_id)
        return Roster(rank, min(one.lease_s for one in self.members.values()), others)

    def ring(self, member: Member, bell: str) -> None:
        """See `Store.ring`."""
        for feed in list(self._feeds):
            if feed.interest.bell == bell:
                feed.tell(Wake("bell"))

    def leave(self, member: Member) -> None:
        """See `Store.leave`."""
        self.members.pop(member.row_id, None)
        self.beats.pop(member.row_id, None)

    def feed(self, interest: Interest, await_s: float | None = None) -> MemoryFeed:
        """See `Store.feed`."""
        feed = MemoryFeed(interest, self._feeds.remove)
        self._feeds.append(feed)
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
        return copy.deepcopy(self._anywhere(id))

    def wait_for(self, id: ObjectId, member_id: str) -> TaskDocument | None:
        """See `Store.wait_for`."""
        document = self._anywhere(id)
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
            self._free(document)
        deleted = memory_records.delete(self.documents, id, force=force)
        if document is not None and deleted == "deleted":
            self._leave_followers(document)
        return deleted

    def _leave_followers(self, deleted: TaskDocument) -> None:
        """See to who waits for a task that somebody has deleted: how it ended is told, if it had."""
        if _has_mark_of_end(deleted):
            self._unblock(list(self.documents.values()), {deleted["_id"]: deleted["status"]}, whole_ms(self._clock()))
        self._mark_followers(deleted)

    def purge(self, search: Search, older_than_s: float, after: ObjectId | None = None) -> Purged:
        """See `Store.purge`."""
        return memory_records.purge(self.documents, search, older_than_s, after, whole_ms(self._clock()))

    def requeue(self, ids: Sequence[ObjectId], how: Requeue) -> list[Requeued]:
        """See `Store.requeue`."""
        requeued = memory_records.requeue(self.documents, ids, how, whole_ms(self._clock()))
        for one in requeued:
            if one.verdict == "requeued":
                self._tell(self.documents[one.id])
        return requeued

    def free_key(self, queue: str, key: UniqueKey) -> bool:
        """See `Store.free_key`."""
        id = held_id(queue, stored_key(key))
        if not hold_key.is_held(self.meta.get(id), whole_ms(self._clock())):
            return False
        del self.meta[id]
        return True

    def unclaimed(self) -> list[Unclaimed]:
        """See `Store.unclaimed`."""
        ready = Counter((one["queue"], one["task"]) for one in self.documents.values() if one["status"] == READY)
        served = [one for member in self.members.values() for one in member.serves]
        return unclaimed_of(served, [(queue, task, count) for (queue, task), count in ready.items()])

    def dead_letters(self) -> MemoryStore:
        """See `Store.dead_letters`."""
        if self.dead is None:
            raise UsageError(NO_DEAD_LETTERS)
        return MemoryDeadLetters(self, self.dead)

    def workers(self) -> list[WorkerView]:
        """See `Store.workers`."""
        now = whole_ms(self._clock())
        rows = []
        for id in sorted(self.members):
            member, (started_at, beat_at) = self.members[id], self.beats[id]
            row = msgspec.structs.asdict(member) | {"_id": id, "started_at": started_at}
            row["worker"] = member.worker or member.id
            rows.append(row | {"age_ms": (now - beat_at) / timedelta(milliseconds=1)})
        holders = Counter(one["worker"] for one in self.documents.values() if one["status"] == RUNNING)
        return workers_of(rows, [{"_id": name, "count": count} for name, count in holders.items()])

    def now(self) -> datetime:
        """See `Store.now`."""
        return self._clock()

    def close(self) -> None:
        """Nothing to give back."""

    def _free(self, document: TaskDocument) -> None:
        if free.has_slot(document):
            free.apply(document)
            self._tell(document)

    def _tell(self, document: TaskDocument, *, is_new: bool = False) -> None:
        for feed in list(self._feeds):
            for wake in wake_of_document(document, self._clock(), feed.interest, is_new=is_new):
                feed.tell(wake)


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
        now, document = whole_ms(self._clock()), self.documents.get(id)
        if document is None or ("lifetime_until" in document and document["lifetime_until"] <= now):
            return Requeued(id, "gone")
        if id in self._living.documents:
            return Requeued(id, "not terminal")
        (became,) = memory_records.requeue(self._living.documents | {id: document}, [id], how, now)
        if became.verdict == "requeued":
            self._living.documents[id] = self.documents.pop(id)
            self._living._tell(document, is_new=True)
        return became

    def free_key(self, queue: str, key: UniqueKey) -> bool:
        """See `Store.free_key`: keys stand beside the living."""
        return self._living.free_key(queue, key)

    def _leave_followers(self, deleted: TaskDocument) -> None:
        self._living._leave_followers(deleted)
