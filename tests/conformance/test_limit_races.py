"""Limited claims that race on the real server, each race brought about at the worst moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from streamq.core.limits import Limits, Rate
from streamq.store.limiting import Found
from streamq.store.shelf import MongoShelf

if TYPE_CHECKING:
    from tests.conformance.conftest import MongoLab


def put(mongo: MongoLab, count: int, key: str | None = None) -> None:
    options: Any = {} if key is None else {"rate_key": key}
    for _ in range(count):
        mongo.put(options=options)


def test_tokens_of_tasks_that_others_were_quicker_to_claim_are_given_back(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = Rate(1, per_s=1_000, burst=2)
    limits = Limits(rate=rate, key_rate=rate)
    put(mongo, 2, "k")
    taken = MongoShelf.take

    def others_first(self: MongoShelf, chosen: Sequence[tuple[Found, Any]]) -> set[Any]:
        assert len(mongo.claim()) == 2
        return taken(self, chosen)

    with monkeypatch.context() as patched:
        patched.setattr(MongoShelf, "take", others_first)
        assert mongo.claim(limits=limits) == []
    put(mongo, 2, "k")
    assert len(mongo.claim(limits=limits)) == 2


@pytest.mark.parametrize(
    ("limits", "read", "stale"),
    [(Limits(running=2), "slots", []), (Limits(key_running=2), "key_slots", {})],
    ids=["slots of the queue", "slots of a key"],
)
def test_slot_that_another_took_since_it_was_read_is_not_given_twice(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch, limits: Limits, read: str, stale: Any
) -> None:
    """Both read that all slots are free; the unique index lets one of them have each."""
    put(mongo, 2, "k")
    assert len(mongo.claim(limits=limits)) == 2
    put(mongo, 2, "k")
    monkeypatch.setattr(MongoShelf, read, lambda self: stale)
    monkeypatch.setattr(MongoShelf, "unhold", lambda self, limit, taken: None)
    assert mongo.claim(limits=limits) == []
    assert mongo.store.counts()["q"]["running"] == 2


def test_new_bucket_that_two_claimers_make_at_once_is_one_bucket(mongo: MongoLab) -> None:
    limits = Limits(rate=Rate(1, per_s=1_000, burst=3))
    put(mongo, 6)
    first = MongoShelf(mongo.mongo._tasks, mongo.ask(limits=limits), limits)
    assert limits.rate is not None
    assert first.tokens("rate:q", limits.rate, 2).granted == 2
    assert len(mongo.claim(limits=limits)) == 1
