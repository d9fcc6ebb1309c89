"""Blocking claims: what was obtained is never lost to its caller."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from streamq import StoreUnavailable, StreamQ
from streamq.bridge import InlineBridge
from streamq.core.member import Member
from streamq.core.wakes import Interest
from streamq.store.memory import MemoryFeed, MemoryStore


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
    assert not store._feeds


def test_claim_that_obtained_nothing_says_so_when_the_good_bye_fails(app: StreamQ, store: StoreWithoutGoodBye) -> None:
    """The row is forgotten by itself: nothing is to be done about it."""
    assert app.blocking.queue("q").claim(wait_s=0.01) is None
    assert store.left == 1
