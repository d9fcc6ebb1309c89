"""Planted bugs, which a simulation must find: tests of the tests. The product knows nothing of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final
from unittest.mock import patch
from weakref import WeakKeyDictionary

from bson import ObjectId
from msgspec.structs import replace

from streamq.core.claim import Ask, Claim
from streamq.core.document import RUNNING, TaskDocument
from streamq.core.limits import Rate
from streamq.core.moves import extend as extend_move
from streamq.core.moves import recur as recur_move
from streamq.core.moves import take_back as take_back_move
from streamq.core.moves import token as token_move
from streamq.core.moves.fence import is_held
from streamq.core.moves.token import Bucket
from streamq.core.new_task import NewTask
from streamq.core.schedule import Row
from streamq.core.settlement import Settlement, Verdict
from streamq.core.wakes import Interest
from streamq.runtime import clock
from streamq.runtime.held import Held
from streamq.runtime.intake import Intake
from streamq.runtime.recurrer import BACKSTOP_S, Recurrer
from streamq.runtime.watcher import Watcher
from streamq.store import limiting, memory, memory_shelf
from streamq.store.memory import MemoryStore
from tests.simulation.server import Server

Patches = list[Any]


def fence_by_status() -> Patches:
    """The fence asks whether the task is running, not under whose claim."""

    def is_running(document: TaskDocument, queue: str, claim_id: bytes) -> bool:
        return document["queue"] == queue and document["status"] == RUNNING

    return [patch.object(memory, "is_held", is_running)]


def scan_before_stream() -> Patches:
    """A worker looks at its queues before its stream is open, and then trusts the stream alone."""
    follow_once, cover, subscribe = Watcher._follow_once, Watcher._cover, Watcher.subscribe
    seen: WeakKeyDictionary[Watcher, list[str]] = WeakKeyDictionary()

    def only_seen(self: Watcher) -> None:
        for intake in self._intakes:
            intake._behind = intake.wants.queue in seen[self]

    async def follow_too_late(self: Watcher) -> None:
        queues = sorted({intake.wants.queue for intake in self._intakes})
        seen[self] = await self._bridge.call(self._store.queues_behind, queues)
        await follow_once(self)

    async def cover_without_scan(self: Watcher, interest: Interest) -> None:
        await cover(self, interest)
        only_seen(self)

    async def subscribe_without_scan(self: Watcher, intakes: Sequence[Intake]) -> None:
        await subscribe(self, intakes)
        only_seen(self)

    return [
        patch.object(Watcher, "_follow_once", follow_too_late),
        patch.object(Watcher, "_cover", cover_without_scan),
        patch.object(Watcher, "subscribe", subscribe_without_scan),
    ]


def settle_unseen() -> Patches:
    """A batch that was sent counts as written: nobody looks how many were, nor reads back whose was not."""
    settle = MemoryStore.settle

    def settle_unseen(self: MemoryStore, settlements: Sequence[Settlement]) -> list[Verdict]:
        settle(self, settlements)
        return ["settled"] * len(settlements)

    return [patch.object(MemoryStore, "settle", settle_unseen)]


def settle_without_read_back() -> Patches:
    """What a repeated settlement does not find held is told lost: nobody reads back who has settled it."""
    settle = MemoryStore._settle

    def settle_blindly(self: MemoryStore, settlement: Settlement) -> Verdict:
        document = self.anywhere(settlement.id)
        if document is not None and not is_held(document, settlement.queue, settlement.claim_id):
            return "lost"
        return settle(self, settlement)

    return [patch.object(MemoryStore, "_settle", settle_blindly)]


def lease_by_client_clock() -> Patches:
    """A lease ends by the wall clock of who took it."""
    begin = Server._begin

    def begin_by_client(self: Server, document: TaskDocument, ask: Ask, now: datetime) -> Claim:
        assert self.client_now is not None
        return begin(self, document, ask, self.client_now)

    def extend_by_client(self: Server, claims: Sequence[Claim]) -> list[ObjectId]:
        lost = extend(self, claims)
        assert self.client_now is not None
        for one in claims:
            if one.id not in lost:
                extend_move.apply(self.documents[one.id], one.lease_s, self.client_now)
        return lost

    extend = Server.extend
    return [patch.object(Server, "_begin", begin_by_client), patch.object(Server, "extend", extend_by_client)]


def slots_unseen() -> Patches:
    """Of the slots of a queue each claim takes the first, whoever has it."""

    def all_free(limit: int, taken: Sequence[int]) -> list[int]:
        return list(range(limit))

    return [patch.object(limiting, "free_slots", all_free), patch.object(memory_shelf, "free_slots", all_free)]


def tokens_unspent() -> Patches:
    """A bucket grants what is wanted, whatever it holds."""

    def grant(bucket: Bucket, rate: Rate, wanted: int, now: datetime) -> None:
        bucket["granted"], bucket["tokens"] = wanted, float(rate.most)

    return [patch.object(token_move, "apply", grant)]


def slot_not_moved_on() -> Patches:
    """The task of a slot is put, and the first time the schedule's row is not written with it."""
    apply = recur_move.apply

    def forget(document: dict[str, Any], update: recur_move.Update) -> None:
        if "fired_at" not in update.get("$set", {}) or "once" in document:
            apply(document, update)
        document["once"] = True

    return [patch.object(recur_move, "apply", forget)]


def slots_from_now() -> Patches:
    """The next slot is counted from when the one before was fired, not on the grid."""
    fire = recur_move.fire

    def drift(row: Row, template: NewTask, by: str, now: datetime, *, busy: bool) -> recur_move.Shot:
        shot = fire(row, template, by, now, busy=busy)
        assert row.recurrence.every_ms is not None
        next_at = now + timedelta(milliseconds=row.recurrence.every_ms)
        shot.update["$set"]["next_at"] = next_at
        return replace(shot, next_at=next_at)

    return [patch.object(recur_move, "fire", drift)]


def fires_not_repeated() -> Patches:
    """What is not known to be fired is left to the look that comes in any case."""
    run = Recurrer.run

    async def run_once(self: Recurrer) -> None:
        alarm = self._alarm
        with patch.object(alarm, "failed", lambda: alarm.sooner(clock.now() + BACKSTOP_S)):
            await run(self)

    return [patch.object(Recurrer, "run", run_once)]


def claimers_unheard() -> Patches:
    """Who claims without a loop waits for a task, and the stream does not know of it."""
    subscribe = Watcher.subscribe

    async def subscribe_workers(self: Watcher, intakes: Sequence[Intake]) -> None:
        await subscribe(self, [intake for intake in intakes if intake.wants.spare != 0])

    return [
        patch.object(Watcher, "subscribe", subscribe_workers),
        patch.object(Watcher, "unsubscribe", lambda *_: None),
    ]


def late_claims_begun() -> Patches:
    """A claim that is answered when its lease is all but over is begun. (It was so.)"""
    return [patch.object(Held, "came_late", lambda held, now: False)]


def one_more_attempt() -> Patches:
    """The end of a lease puts a task back that has no attempt left."""
    apply = take_back_move.apply

    def apply_kindly(document: TaskDocument, now: datetime) -> None:
        document["max_attempts"] += 1
        apply(document, now)
        document["max_attempts"] -= 1

    return [patch.object(take_back_move, "apply", apply_kindly)]


MUTANTS: Final[Mapping[str, Callable[[], Patches]]] = {
    one.__name__: one
    for one in (
        fence_by_status,
        scan_before_stream,
        settle_unseen,
        settle_without_read_back,
        lease_by_client_clock,
        slots_unseen,
        tokens_unspent,
        slot_not_moved_on,
        slots_from_now,
        fires_not_repeated,
        claimers_unheard,
        late_claims_begun,
        one_more_attempt,
    )
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Let the bug of that name be there for the body."""
    patches = MUTANTS[name]()
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in reversed(patches):
            one.stop()
