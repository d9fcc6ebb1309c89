"""Planted bugs, which a simulation must find: tests of the tests. The product knows nothing of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final
from unittest.mock import patch
from weakref import WeakKeyDictionary

from bson import ObjectId

from streamq.core.claim import Ask, Claim
from streamq.core.document import RUNNING, TaskDocument
from streamq.core.moves import extend as extend_move
from streamq.core.moves.fence import is_held
from streamq.core.settlement import Settlement, Verdict
from streamq.core.wakes import Interest
from streamq.runtime.intake import Intake
from streamq.runtime.standing_by import StandingBy
from streamq.runtime.watcher import Watcher
from streamq.store import memory
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
        document = self._anywhere(settlement.id)
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


def wake_forgotten() -> Patches:
    """A wake that comes while a look is on its way is taken for one that the look was about. (It was so.)"""
    seen = StandingBy.seen

    def seen_by_id(self: StandingBy, asked: Any, there: Any, now: float) -> Any:
        return seen(self, {id: self._waiting.get(id, one) for id, one in asked.items()}, there, now)

    return [patch.object(StandingBy, "seen", seen_by_id)]


MUTANTS: Final[Mapping[str, Callable[[], Patches]]] = {
    one.__name__: one
    for one in (
        fence_by_status,
        scan_before_stream,
        settle_unseen,
        settle_without_read_back,
        lease_by_client_clock,
        wake_forgotten,
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
