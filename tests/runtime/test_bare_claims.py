"""Bare claims: one call, one answer; a waiting one is woken by the one stream, and what it leaves behind goes back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, cast

import msgspec
import pytest
import trio
import trio.testing

from streamq import LeaseLost, OptionInvalid, OutcomeUnknown, Retry, StoreUnavailable, StreamQ, UsageError
from streamq.core.claim import Ask
from streamq.core.settlement import Verdict
from streamq.store.contract import Claimed, Taking
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time


def memory(app: StreamQ) -> MemoryStore:
    return cast(MemoryStore, app.store)


def statuses(app: StreamQ) -> Counter[str]:
    return Counter(document["status"] for document in memory(app).documents.values())


def attempts(app: StreamQ) -> list[int]:
    return [document["attempt"] for document in memory(app).documents.values()]


async def test_claim_takes_the_next_task_and_none_when_there_is_none() -> None:
    app = memory_app()
    async with app:
        queue = app.queue("q")
        await queue.put_many(["a", "b"])
        for expected in ("a", "b"):
            task = await queue.claim()
            assert task is not None
            async with task:
                assert task.payload == expected
        assert await queue.claim() is None
        assert statuses(app) == {"succeeded": 2}


async def test_claim_without_wait_opens_no_stream() -> None:
    app = memory_app()
    async with app:
        assert await app.queue("q").claim() is None
        assert memory(app).feeds == []


async def test_claim_sees_to_what_is_due_where_no_worker_is() -> None:
    app = memory_app()
    async with app:
        await app.queue("q").put("later", delay_s=5)
        assert await app.queue("q").claim() is None
        await trio.sleep(6)
        assert await app.queue("q").claim() is not None


async def test_waiting_claim_is_woken_by_the_put_and_not_by_looking() -> None:
    app = memory_app(safety_scan_s=None)
    async with app, trio.open_nursery() as nursery:

        async def put() -> None:
            await trio.sleep(5_000)
            await app.queue("q").put(trio.current_time())

        nursery.start_soon(put)
        task = await app.queue("q").claim(wait_s=math.inf)
        assert task is not None
        assert trio.current_time() == task.payload
        assert app.journal.counts["claim calls"] < 10


async def test_waiting_claim_that_finds_nothing_in_time_says_so() -> None:
    app = memory_app()
    async with app:
        assert await app.queue("q").claim(wait_s=7) is None
        assert trio.current_time() == 7


async def test_waiting_claims_share_the_one_stream() -> None:
    app = memory_app(safety_scan_s=None)
    got: list[Any] = []

    async def claim(queue: str) -> None:
        task = await app.queue(queue).claim(wait_s=1_000)
        assert task is not None
        await task.succeed()
        got.append(task.payload)

    async with app, trio.open_nursery() as nursery:
        for queue in ("a", "b", "a", "c"):
            nursery.start_soon(claim, queue)
        await trio.testing.wait_all_tasks_blocked()
        assert len(memory(app).feeds) == 1
        for queue in ("a", "b", "a", "c"):
            await app.queue(queue).put(queue)
    assert sorted(got) == ["a", "a", "b", "c"]


async def test_second_waiting_claim_finds_the_stream_open() -> None:
    app = memory_app(safety_scan_s=None)
    async with app, trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(put_at, app, 100.0 * (number + 1), number)
        feeds = set()
        for number in range(3):
            task = await app.queue("q").claim(wait_s=1_000)
            assert task is not None
            assert task.payload == number
            await task.succeed()
            feeds.add(id(memory(app).feeds[0]))
        assert len(feeds) == 1


async def put_at(app: StreamQ, at: float, payload: Any, **options: Any) -> None:
    await trio.sleep_until(at)
    await app.queue("q").put(payload, **options)


class Slow(MemoryStore):
    """A store whose claims can be held up: a hook runs once one has been applied, before it is answered."""

    hook: Callable[[Claimed], None] | None = None

    def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
        claimed = super().claim(ask, taking)
        if claimed.claims and self.hook is not None:
            self.hook(claimed)
        return claimed


@pytest.mark.parametrize("max_attempts", [1, 5])
async def test_what_a_waiting_claim_obtains_as_it_is_cancelled_goes_back(max_attempts: int) -> None:
    """The claim is on its way when its caller leaves: nobody would ever take the task."""
    app = memory_app(safety_scan_s=None)
    store = Slow(trio_time)
    app._store = store
    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(partial(put_at, app, 10.0, "x", max_attempts=max_attempts))
        with trio.CancelScope() as scope:
            store.hook = lambda claimed: scope.cancel()
            assert await app.queue("q").claim(wait_s=1_000) is None
        store.hook = None
        await trio.testing.wait_all_tasks_blocked()
        assert statuses(app) == {"ready": 1}
        assert attempts(app) == [0]
        assert len(app.services().holdings) == 0


async def test_claim_that_times_out_leaves_nothing_running() -> None:
    app = memory_app(safety_scan_s=None)
    async with app:
        assert await app.queue("q").claim(wait_s=5) is None
        await app.queue("q").put("x")
        await trio.sleep(100)
        assert statuses(app) == {"ready": 1}
        task = await app.queue("q").claim()
        assert task is not None
        assert task.info.attempt == 1


async def test_taskless_taker_of_a_loop_without_prefetch_gives_back_what_came_too_late() -> None:
    app = memory_app(safety_scan_s=None)
    store = Slow(trio_time)
    app._store = store
    async with app, app.queue("q").consume(prefetch=0) as tasks, trio.open_nursery() as nursery:
        nursery.start_soon(put_at, app, 10.0, "x")
        with trio.CancelScope() as scope:
            store.hook = lambda claimed: scope.cancel()
            await anext(tasks)
        await trio.testing.wait_all_tasks_blocked()
        assert statuses(app) == {"ready": 1}


async def test_lease_of_a_held_task_is_extended_until_it_is_settled() -> None:
    app = memory_app(lease_s=10)
    async with app:
        await app.queue("q").put("x")
        task = await app.queue("q").claim()
        assert task is not None
        await trio.sleep(1_000)
        assert not task.is_lost
        await task.succeed()
        assert statuses(app) == {"succeeded": 1}


async def test_task_never_settled_is_given_back_uncounted_when_the_app_is_left() -> None:
    app = memory_app()
    async with app:
        await app.queue("q").put_many(range(4))
        assert len(await app.queue("q").claim_many(2)) == 2
        assert await app.queue("q").claim(wait_s=5) is not None
        assert statuses(app) == {"running": 3, "ready": 1}
    assert statuses(app) == {"ready": 4}
    assert attempts(app) == [0] * 4


async def test_claim_still_waiting_when_the_app_is_left_is_told() -> None:
    app = memory_app()
    async with trio.open_nursery() as nursery:

        async def claim() -> None:
            with pytest.raises(UsageError, match="was left"):
                await app.queue("q").claim(wait_s=math.inf)

        async with app:
            nursery.start_soon(claim)
            await trio.testing.wait_all_tasks_blocked()
    assert memory(app).feeds == []


async def test_claim_outside_of_the_app_is_refused() -> None:
    app = memory_app()
    with pytest.raises(UsageError, match="enter the app"):
        await app.queue("q").claim()


async def test_claim_many_takes_up_to_n_in_order_and_does_not_wait_for_more() -> None:
    app = memory_app()
    async with app:
        queue = app.queue("q")
        await queue.put_many(range(5))
        assert [task.payload for task in await queue.claim_many(3)] == [0, 1, 2]
        assert [task.payload for task in await queue.claim_many(3, wait_s=100)] == [3, 4]
        assert await queue.claim_many(3) == []
        assert trio.current_time() == 0


async def test_waiting_claim_many_returns_what_came_together() -> None:
    app = memory_app(safety_scan_s=None)
    async with app, trio.open_nursery() as nursery:

        async def put() -> None:
            await trio.sleep(50)
            await app.queue("q").put_many(range(10))

        nursery.start_soon(put)
        assert [task.payload for task in await app.queue("q").claim_many(8, wait_s=100)] == list(range(8))
        assert statuses(app) == {"running": 8, "ready": 2}


async def test_pop_hands_out_what_is_stored_as_succeeded() -> None:
    app = memory_app()
    async with app:
        await app.queue("q").put("x")
        task = await app.queue("q").pop()
        assert task is not None
        assert task.payload == "x"
        assert statuses(app) == {"succeeded": 1}
        with pytest.raises(UsageError, match="settled here already"):
            await task.succeed()
        assert await app.queue("q").pop(wait_s=5) is None


class Losing(MemoryStore):
    """A store that loses a settlement's task to others."""

    verdicts: tuple[Verdict, ...] = ()

    def settle(self, settlements: Any) -> list[Verdict]:
        if self.verdicts and settlements:
            verdict, *rest = self.verdicts
            self.verdicts = tuple(rest)
            return [verdict]
        return super().settle(settlements)


async def test_pop_whose_task_was_taken_over_hands_out_the_next() -> None:
    app = memory_app()
    store = Losing(trio_time)
    app._store = store
    async with app:
        await app.queue("q").put_many(["lost", "next"])
        store.verdicts = ("lost",)
        task = await app.queue("q").pop()
        assert task is not None
        assert task.payload == "next"


async def test_pop_of_which_nobody_knows_whether_it_is_stored_hands_out_nothing() -> None:
    app = memory_app()
    store = Losing(trio_time)
    app._store = store
    async with app:
        await app.queue("q").put("x")
        store.verdicts = ("unknown",)
        with pytest.raises(OutcomeUnknown):
            await app.queue("q").pop()


async def test_undecodable_payload_fails_for_good_and_the_next_task_is_claimed() -> None:
    app = memory_app()
    async with app:
        bad, _ = await app.queue("q").put_many(["bad", "good"])
        memory(app).documents[bad.id]["payload"] = {"~unheard-of": "x"}
        task = await app.queue("q").claim()
        assert task is not None
        assert task.payload == "good"
        await trio.testing.wait_all_tasks_blocked()
        assert memory(app).documents[bad.id]["status"] == "failed"


async def test_claim_whose_server_is_away_says_so() -> None:
    class Away(MemoryStore):
        def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
            raise StoreUnavailable("no primary")

    app = memory_app()
    app._store = Away(trio_time)
    async with app:
        with pytest.raises(StoreUnavailable):
            await app.queue("q").claim(wait_s=10)


async def test_stale_holder_changes_nothing() -> None:
    app = memory_app(retry=Retry(max_attempts=3))
    async with app:
        handle = await app.queue("q").put("x")
        task = await app.queue("q").claim()
        assert task is not None
        document = memory(app).documents[handle.id]
        document["claim_id"] = b"somebody else's."
        document["lease_until"] = trio_time() + timedelta(hours=1)
        before = dict(document)
        for attempt in (task.extend, task.succeed):
            with pytest.raises(LeaseLost):
                await attempt()
        with pytest.raises(LeaseLost):
            await task.fail("no")
        with pytest.raises(LeaseLost):
            async with task:
                pass
        assert memory(app).documents[handle.id] == before


async def test_racing_claims_deliver_each_task_once() -> None:
    app = memory_app()
    seen: list[Any] = []

    async def hand() -> None:
        while (task := await app.queue("q").claim(wait_s=20)) is not None:
            async with task:
                seen.append(task.payload)
                await trio.sleep(1)

    async with app, trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(hand)
        await trio.sleep(5)
        await app.queue("q").put_many(range(60))
    assert sorted(seen) == list(range(60))
    assert statuses(app) == {"succeeded": 60}
    assert attempts(app) == [1] * 60


@pytest.mark.parametrize("wait_s", [-1, True, "5", None, math.nan])
async def test_bad_wait_is_refused_by_name(wait_s: Any) -> None:
    app = memory_app()
    async with app:
        for call in (app.queue("q").claim, app.queue("q").pop):
            with pytest.raises(OptionInvalid, match="wait_s"):
                await call(wait_s=wait_s)


@pytest.mark.parametrize("n", [0, -1, 1_001, True, 2.0])
async def test_bad_count_is_refused_by_name(n: Any) -> None:
    app = memory_app()
    async with app:
        with pytest.raises(OptionInvalid, match=r"^n="):
            await app.queue("q").claim_many(n)


async def test_task_of_a_handler_is_tried_again_by_its_rule_whoever_claims_it(autojump_clock: trio.abc.Clock) -> None:
    app = memory_app(retry=Retry.constant(3, jitter=False))
    queue = app.queue("q")

    @app.task(queue="q", retry=Retry.constant(10, never=ValueError, jitter=False))
    async def known() -> None: ...

    @app.task(queue="other", retry=Retry.constant(20, jitter=False))
    async def elsewhere() -> None: ...

    async def waits_s(error: Exception) -> float | None:
        task = await queue.claim()
        assert task is not None
        await task.fail(error)
        (document,) = memory(app).documents.values()
        memory(app).documents.clear()
        return (document["due_at"] - trio_time()).total_seconds() if document["status"] == "delayed" else None

    async with app:
        for error, expected in ((OSError("gone"), 10), (ValueError("bad"), None)):
            await known.put()
            assert await waits_s(error) == expected
        await queue.put("bare")
        assert await waits_s(ValueError("bad")) == 3
        await app.put_many([msgspec.structs.replace(elsewhere.new(), queue="q")])
        assert await waits_s(ValueError("bad")) == 3
