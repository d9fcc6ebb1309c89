"""Claims that a primary acknowledged and then lost: their tasks run again, and only who claimed them then settles them.

One rollback for all tests, or one after the other on the same set: each test has a task of its own, claimed before it
by one program and after it by another. A claim that is returned is a task that is begun.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final
from unittest.mock import patch

import msgspec
import pytest
from bson import ObjectId

from streamq import BlockingTask, LeaseLost, StoreError, StreamQ
from streamq.core.document import RUNNING
from streamq.core.moves import claim as claim_move
from streamq.embedded import EmbeddedServer
from streamq.errors import ClaimUnknown
from streamq.store import settling
from tests.chaos.conftest import SHORT_OPTIONS
from tests.long_form import sized
from tests.patience import eventually
from tests.replication import nothing_replicated

ROLLBACKS: Final = sized(1, 50)
CLAIMS: Final = 50
ONCE: Final = 8
"""Tasks that may start once."""

LONG_S: Final = 60.0
IMPATIENT_S: Final = 1.0


class Pair(msgspec.Struct, frozen=True):
    """One task, as its first and its second holder have it."""

    first: BlockingTask
    second: BlockingTask


class RolledBack(msgspec.Struct, frozen=True):
    """After the rollback."""

    app: StreamQ
    pairs: list[Pair]
    once: frozenset[ObjectId]
    """Tasks that may start once: claims of all of them were stored at the old primary, and lost with it."""
    unknown: list[ClaimUnknown]
    """What was said of these claims while it was there, but for the last: that one was still waiting when it died."""
    begun: Counter[ObjectId]
    """How often each of them was begun, before and after."""
    hasty: Pair
    """A task that may start once, claimed both times as if it might start again: a planted bug."""


@pytest.fixture(scope="module", params=range(ROLLBACKS))
def rolled_back(three: EmbeddedServer) -> Iterator[RolledBack]:
    """Claim by one program, lose that, claim by another."""
    for node in three.nodes:
        node.start()
    three.wait_healthy()
    place = f"rolled_back_{time.monotonic_ns()}"
    first, second, impatient = (_app(three, place, timeout_s) for timeout_s in (LONG_S, LONG_S, IMPATIENT_S))
    try:
        many, once = first.blocking.queue("many"), first.blocking.queue("once")
        many.put_many(range(CLAIMS))
        ids = frozenset(handle.id for handle in once.put_many(range(ONCE), max_attempts=1))
        first.blocking.queue("hasty").put("once", max_attempts=1)
        impatient.blocking.store()
        old = three.primary()
        assert old is not None
        with nothing_replicated(three) as let_replicate, ThreadPoolExecutor(1) as pool:
            before = many.claim_many(CLAIMS)
            assert len(before) == CLAIMS
            begun, unknown = _claimed_once(impatient, (1, ONCE - 2))
            waiting = pool.submit(once.claim)
            held = {"queue": "once", "status": RUNNING}
            assert eventually(lambda: first.client[place].tasks.count_documents(held) == ONCE)
            with without_majority():
                hasty = first.blocking.queue("hasty").claim_many(1)
            old.kill()
            let_replicate()
            late = _begun(waiting)
        again = {task.info.id: task for task in _claimed(second, "many", CLAIMS)}
        begun.update(late)
        begun.update(task.info.id for task in _claimed(second, "once", ONCE - len(late)))
        hasty += _claimed(second, "hasty", 1)
        old.start()
        three.wait_healthy()
        begun += _claimed_once(second, [ONCE])[0]
        pairs = [Pair(task, again[task.info.id]) for task in before]
        yield RolledBack(second, pairs, ids, unknown, begun, Pair(*hasty))
        second.client.drop_database(place)
    finally:
        for app in (first, second, impatient):
            app.close()


def _claimed_once(app: StreamQ, numbers: Iterable[int]) -> tuple[Counter[ObjectId], list[ClaimUnknown]]:
    """Claim so many tasks each time that may start once; return what that began, and what it said otherwise."""
    begun: Counter[ObjectId] = Counter()
    unknown = []
    for n in numbers:
        try:
            begun.update(task.info.id for task in app.blocking.queue("once").claim_many(n))
        except ClaimUnknown as error:
            unknown.append(error)
    return begun, unknown


def _begun(waiting: Future[BlockingTask | None]) -> list[ObjectId]:
    """Return what a claim began that waited for its majority when its primary died: it may be sent again."""
    with contextlib.suppress(StoreError):
        task = waiting.result(LONG_S)
        return [] if task is None else [task.info.id]
    return []


def _app(three: EmbeddedServer, place: str, timeout_s: float) -> StreamQ:
    return StreamQ(three.uri + SHORT_OPTIONS, database=place, lease_s=600.0, timeout_s=timeout_s)


@contextlib.contextmanager
def without_majority() -> Iterator[None]:
    """Let every claim be of those that may be rolled back."""
    with patch.object(claim_move, "is_delicate", lambda document: False):
        yield


def _claimed(app: StreamQ, queue: str, n: int) -> list[BlockingTask]:
    found: list[BlockingTask] = []

    def has_all() -> bool:
        with contextlib.suppress(StoreError):  # the election may still be on
            found.extend(app.blocking.queue(queue).claim_many(n))
        return len(found) >= n

    assert eventually(has_all, LONG_S)
    return found


@pytest.mark.chaos
def test_rolled_back_claim_counts_for_nothing(rolled_back: RolledBack) -> None:
    """Which shows that there was a rollback: a counter would be the same for both holders."""
    for pair in rolled_back.pairs:
        assert pair.first.info.attempt == pair.second.info.attempt == 1
        assert pair.first.info.claim_id != pair.second.info.claim_id


@pytest.mark.chaos
@pytest.mark.parametrize("how", ["succeed", "fail", "release", "extend", "progress"])
def test_holder_of_a_rolled_back_claim_writes_nothing(rolled_back: RolledBack, how: str) -> None:
    pair = rolled_back.pairs.pop()
    writes: dict[str, Callable[[], object]] = {
        "succeed": lambda: pair.first.succeed("first"),
        "fail": lambda: pair.first.fail("first", retry=False),
        "release": pair.first.release,
        "extend": pair.first.extend,
        "progress": lambda: pair.first.progress(1),
    }
    with pytest.raises(LeaseLost):
        writes[how]()
    pair.second.succeed("second")
    assert rolled_back.app.blocking.result(pair.second.info.id) == "second"


@pytest.mark.chaos
def test_each_task_of_a_rolled_back_claim_is_settled_once_whoever_comes_first(rolled_back: RolledBack) -> None:
    settled: Counter[ObjectId] = Counter()
    for number in range(len(rolled_back.pairs) - 1):
        pair = rolled_back.pairs.pop()
        holders = [pair.first, pair.second]
        for holder in holders if number % 2 else reversed(holders):
            with contextlib.suppress(LeaseLost):
                holder.succeed()
                settled[holder.info.id] += 1
        assert rolled_back.app.blocking.wait(pair.second.info.id)["settled_by"] == pair.second.info.claim_id
    assert set(settled.values()) == {1}


@pytest.mark.chaos
def test_task_that_may_start_once_is_not_begun_by_a_claim_without_a_majority(rolled_back: RolledBack) -> None:
    """Neither is it lost: it is begun by the first claim that a majority has."""
    told = [id for unknown in rolled_back.unknown for id in unknown.ids]
    assert len(told) == len(set(told)) == ONCE - 1
    assert set(told) < rolled_back.once
    assert rolled_back.begun == dict.fromkeys(rolled_back.once, 1)


@pytest.mark.chaos
def test_task_that_may_start_once_starts_twice_by_claims_without_a_majority(rolled_back: RolledBack) -> None:
    """The control of the test above: two holders, each told that it is at the first and only attempt."""
    first, second = rolled_back.hasty.first.info, rolled_back.hasty.second.info
    assert (first.id, first.attempt, first.max_attempts) == (second.id, second.attempt, second.max_attempts)
    assert (first.attempt, first.max_attempts) == (1, 1)


@pytest.mark.chaos
def test_fence_of_the_attempts_number_alone_lets_both_settle(
    rolled_back: RolledBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the tests above: with the bug planted both are told that they have ended it."""
    pair = rolled_back.pairs.pop()

    def by_attempt(queue: str, claim_id: bytes, ids: Iterable[ObjectId]) -> dict[str, Any]:
        return {"_id": {"$in": list(ids)}, "queue": queue, "status": RUNNING, "attempt": pair.first.info.attempt}

    monkeypatch.setattr(settling, "fence", by_attempt)
    pair.first.succeed("first")
    pair.second.succeed("second")  # told that it has: the end carries its claim
    assert rolled_back.app.blocking.result(pair.first.info.id) == "first"
