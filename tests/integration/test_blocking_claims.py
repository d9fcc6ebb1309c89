"""Blocking claims: what was obtained is never lost to its caller."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from streamq import StoreUnavailable, StreamQ
from streamq.bridge import InlineBridge
from streamq.core.claim import Ask
from streamq.core.member import Member
from streamq.core.wakes import Interest
from streamq.errors import ClaimUnknown
from streamq.store.contract import Claimed, Taking
from streamq.store.memory import MemoryStore
from streamq.store.memory_feed import MemoryFeed


class StoreWithoutGoodBye(MemoryStore):
    """A store that is away when the member leaves. A task is put by another process at the first read of a stream."""

    left = 0

    def __init__(self) -> None:
        super().__init__(lambda: datetime.now(UTC))
        self.coming: list[Any] = []

    def feed(self, interest: Interest, await_s: float | None = None) -> MemoryFeed:
        feed = super().feed(interest, await_s)
        read = feed.read

        def read_after_put() -> Any:
            self.put([self.coming.pop()] if self.coming else [])
            return read()

        feed.read = read_after_put  # type: ignore[method-assign]
        return feed

    def leave(self, member: Member) -> None:
        self.left += 1
        raise StoreUnavailable("no primary")


@pytest.fixture
def store() -> StoreWithoutGoodBye:
    return StoreWithoutGoodBye()


@pytest.fixture
def app(store: StoreWithoutGoodBye) -> StreamQ:
    return StreamQ.on(store, InlineBridge())


def test_claim_that_obtained_its_task_keeps_it_when_the_good_bye_fails(
    app: StreamQ, store: StoreWithoutGoodBye
) -> None:
    """An error would leave the task running in nobody's hands until its lease ends."""
    store.coming.append(app.queue("q").new("late", max_attempts=1))
    task = app.blocking.queue("q").claim(wait_s=30)
    assert task is not None
    task.succeed()
    assert [one["status"] for one in store.documents.values()] == ["succeeded"]
    assert store.left == 1
    assert not store.feeds


def test_claim_that_obtained_nothing_says_so_when_the_good_bye_fails(app: StreamQ, store: StoreWithoutGoodBye) -> None:
    """The row is forgotten by itself: nothing is to be done about it."""
    assert app.blocking.queue("q").claim(wait_s=0.01) is None
    assert store.left == 1


class StoreWithoutReply(MemoryStore):
    """A store whose replies to claims are lost. What is on its way to it has arrived after `settles_in_s`."""

    settles_in_s = 0.0

    def __init__(self) -> None:
        super().__init__(lambda: datetime.now(UTC))
        self.lost = 1

    def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
        claimed = super().claim(ask, taking)
        if not claimed.claims or not self.lost:
            return claimed
        self.lost -= 1
        ids = tuple(claim.id for claim in claimed.claims)
        raise ClaimUnknown(ask.queue, ask.claim_id, ids, self.settles_in_s, "no reply")


def test_task_of_a_claim_whose_reply_was_lost_goes_to_the_next_claim_uncounted() -> None:
    """Left to its lease, an only attempt would fail without having begun."""
    store = StoreWithoutReply()
    queue = StreamQ.on(store, InlineBridge()).blocking.queue("q")
    queue.put("x", max_attempts=1)
    with pytest.raises(ClaimUnknown):
        queue.claim()
    task = queue.claim()
    assert task is not None
    assert task.info.attempt == 1
    task.succeed()


def test_claim_whose_reply_was_lost_is_given_up_when_nothing_of_it_is_under_way_any_more() -> None:
    store = StoreWithoutReply()
    store.settles_in_s = 0.3
    queue = StreamQ.on(store, InlineBridge()).blocking.queue("q")
    queue.put("x")
    with pytest.raises(ClaimUnknown):
        queue.claim()
    began_at = time.monotonic()
    assert queue.claim() is None
    assert queue.claim(wait_s=20) is not None
    assert 0.2 < time.monotonic() - began_at < 5


VISITORS = 10


class StoreWithVisitors(MemoryStore):
    """Before each of the first reads of a stream another member comes."""

    def __init__(self) -> None:
        super().__init__(lambda: datetime.now(UTC))
        self.coming = VISITORS
        self.claims = 0

    def feed(self, interest: Interest, await_s: float | None = None) -> MemoryFeed:
        feed = super().feed(interest, await_s)
        read = feed.read

        def read_after_visit() -> Any:
            if self.coming:
                self.coming -= 1
                self.beat(Member(f"visitor-{self.coming}", "host", 1, ("q",), 1, 30.0))
            return read()

        feed.read = read_after_visit  # type: ignore[method-assign]
        return feed

    def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
        self.claims += 1
        return super().claim(ask, taking)


def test_claim_that_waits_does_not_look_when_members_come() -> None:
    """Else many that lost their connections at once, and come back, make each other look."""
    store = StoreWithVisitors()
    assert StreamQ.on(store, InlineBridge()).blocking.queue("q").claim(wait_s=0.5) is None
    assert store.coming == 0
    assert store.claims < VISITORS
