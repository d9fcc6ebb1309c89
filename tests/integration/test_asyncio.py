"""The asyncio door, in loops without trio."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from streamq import LeaseLost, OptionInvalid, StreamQ, UsageError
from streamq.asyncio import Door
from streamq.core.search import search_of
from tests.integration.conftest import MakeApp, Mongo


def statuses(app: StreamQ) -> dict[str, int]:
    return dict(app.store.counts().get("q", {}))


def held_until(app: StreamQ, database: str) -> Any:
    row = app.client[database].tasks.find_one({"status": "running"})
    assert row is not None
    return row["lease_until"]


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what another client sees
            await asyncio.sleep(0.01)


def test_put_claim_settle_and_result(make_app: MakeApp) -> None:
    app = make_app()

    async def main() -> None:
        door = Door(app)
        queue = door.queue("q")
        reply = await queue.put("x")
        task = await queue.claim()
        assert task is not None
        assert task.payload == "x"
        assert await door.status(reply.id) in ("ready", "running")  # a claim is seen by the majority a moment later
        waiting = asyncio.create_task(door.result(reply.id, timeout_s=10))
        await task.succeed({"rows": 1})
        assert await waiting == {"rows": 1}
        assert await queue.claim() is None
        await queue.put_many(range(3))
        assert len(await queue.claim_many(5, wait_s=5)) == 3
        with pytest.raises(OptionInvalid, match="wait_s"):
            await queue.claim(wait_s=-1)

    asyncio.run(main())


def test_cancelled_claim_leaves_nothing_claimed(make_app: MakeApp, database: str) -> None:
    app = make_app()

    async def main() -> None:
        claiming = asyncio.create_task(Door(app).queue("q").claim(wait_s=math.inf))
        await until(lambda: app.client[database].tasks.count_documents({"kind": "member"}))
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
        await Door(app).queue("q").put("x")

    asyncio.run(main())
    assert statuses(app) == {"ready": 1}


def test_claim_cancelled_as_it_obtains_its_task_gives_it_back(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    claim = type(app.store).claim
    obtained: list[asyncio.Task[Any]] = []

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x")
        loop = asyncio.get_running_loop()

        def claim_and_cancel(store: Any, ask: Any) -> Any:
            claimed = claim(store, ask)
            loop.call_soon_threadsafe(obtained[0].cancel)
            return claimed

        monkeypatch.setattr(type(app.store), "claim", claim_and_cancel)
        obtained.append(asyncio.create_task(queue.claim()))
        with pytest.raises(asyncio.CancelledError):
            await obtained[0]

    asyncio.run(main())
    assert statuses(app) == {"ready": 1}


def test_block_extends_the_lease_and_settles_by_how_it_is_left(make_app: MakeApp) -> None:
    app = make_app()

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x", max_attempts=1)
        task = await queue.claim(lease_s=1)
        assert task is not None
        async with task:
            await asyncio.sleep(1.3)
            app.store.tick()
        assert statuses(app) == {"succeeded": 1}
        await queue.put("y", max_attempts=1)
        async for task in queue.consume(wait_s=5):
            async with task:
                raise ValueError("no")
            break
        assert statuses(app) == {"succeeded": 1, "failed": 1}

    asyncio.run(main())


def test_task_whose_block_is_done_succeeds_though_it_is_cancelled_while_it_settles(make_app: MakeApp) -> None:
    app = make_app()

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x", max_attempts=1)

        async def run() -> None:
            task = await queue.claim()
            assert task is not None
            async with task:
                body = asyncio.current_task()
                assert body is not None
                asyncio.get_running_loop().call_soon(body.cancel)  # at the first point where leaving the block waits

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(run())
        await until(lambda: statuses(app) == {"succeeded": 1})

    asyncio.run(main())


def test_lost_lease_cancels_the_block_which_says_so(make_app: MakeApp, database: str) -> None:
    app = make_app()

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x")
        task = await queue.claim(lease_s=1)
        assert task is not None
        with pytest.raises(LeaseLost):  # noqa: PT012
            async with task:
                app.client[database].tasks.update_one({"status": "running"}, {"$set": {"claim_id": b"another"}})
                await asyncio.sleep(20)
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0

    asyncio.run(main())


def test_cancelled_block_releases_its_task(make_app: MakeApp) -> None:
    app = make_app()

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x")
        task = await queue.claim()
        assert task is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), task:
                await asyncio.sleep(20)

    asyncio.run(main())
    assert statuses(app) == {"ready": 1}


def test_popped_task_has_succeeded_before_it_is_returned(make_app: MakeApp) -> None:
    app = make_app()

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x")
        task = await queue.pop()
        assert task is not None
        assert task.payload == "x"
        assert statuses(app) == {"succeeded": 1}
        assert await queue.pop() is None

    asyncio.run(main())


def test_progress_is_stored_and_told(make_app: MakeApp) -> None:
    app = make_app()

    async def main() -> None:
        door = Door(app)
        reply = await door.queue("q").put("x")
        task = await door.queue("q").claim()
        assert task is not None
        assert await door.progress(reply.id) is None
        await task.progress(0.5, "half")
        told = None
        while told is None:  # what the majority has
            told = await door.progress(reply.id)
        assert (told.value, told.note) == (0.5, "half")
        await task.release(60)
        assert statuses(app) == {"delayed": 1}
        with pytest.raises(UsageError, match="settled here already"):
            await task.succeed()

    asyncio.run(main())


def test_put_with_a_session_is_stored_with_the_callers_own_writes_or_not_at_all(
    make_app: MakeApp, mongo: Mongo, database: str
) -> None:
    app = make_app()
    mongo[database].create_collection("orders")

    def order(session: Any) -> None:
        app.client[database].orders.insert_one({}, session=session)

    async def main() -> None:
        door = Door(app)
        queue = door.queue("q")
        await queue.put("before")
        with app.client.start_session() as session, session.start_transaction():
            await asyncio.to_thread(order, session)
            await queue.put("x", session=session)
            await door.put(app.queue("q").new("y"), session=session)
            await queue.put_many(["z"], session=session)
            await door.put_many([app.queue("q").new("z")], session=session)
            assert statuses(app) == {"ready": 1}
        assert statuses(app) == {"ready": 5}
        with app.client.start_session() as session:
            session.start_transaction()
            await queue.put("x", session=session)
            session.abort_transaction()
        assert statuses(app) == {"ready": 5}

    asyncio.run(main())


def test_transaction_commits_the_tasks_success_with_its_writes_or_neither(make_app: MakeApp, database: str) -> None:
    """It is open for longer than a third of the lease: no beat may touch the task meanwhile."""
    app = make_app()
    orders = app.client[database].orders

    def order(session: Any) -> str:
        orders.insert_one({}, session=session)
        return "returned"

    async def main() -> None:
        queue = Door(app).queue("q")
        replies = await queue.put_many(list("abc"))
        for fails in (False, True):
            task = await queue.claim(lease_s=1)
            assert task is not None
            async with task:
                transaction = task.transaction()
                async with transaction as session:
                    await asyncio.to_thread(order, session)
                    await asyncio.sleep(0.8)
                    if fails:
                        raise ZeroDivisionError
                    transaction.result = "kept"
        assert await Door(app).result(replies[0].id) == "kept"
        assert statuses(app) == {"succeeded": 1, "delayed": 1, "ready": 1}
        assert orders.count_documents({}) == 1
        task = await queue.claim()
        assert task is not None
        assert await task.run_in_transaction(order) == "returned"
        assert await Door(app).result(replies[2].id) == "returned"
        assert orders.count_documents({}) == 2

    asyncio.run(main())


def test_lease_is_extended_again_after_a_transaction_that_was_aborted(make_app: MakeApp, database: str) -> None:
    app = make_app()

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x")
        task = await queue.claim(lease_s=1)
        assert task is not None
        async with task:
            with contextlib.suppress(ZeroDivisionError):
                async with task.transaction():
                    raise ZeroDivisionError
            ends_at = held_until(app, database)
            await until(lambda: held_until(app, database) != ends_at)
        assert statuses(app) == {"succeeded": 1}

    asyncio.run(main())


@pytest.mark.parametrize("when", ["beginning", "open"])
def test_cancelled_transaction_is_aborted_and_its_task_released(
    make_app: MakeApp, database: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    orders = app.client[database].orders
    aborted: list[Any] = []
    abort = type(app.store).abort

    def note(store: Any, session: Any, error: Any) -> Any:
        aborted.append(session)
        return abort(store, session, error)

    monkeypatch.setattr(type(app.store), "abort", note)

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x", max_attempts=1)

        async def run() -> None:
            task = await queue.claim()
            assert task is not None
            body = asyncio.current_task()
            assert body is not None
            async with task:
                if when == "beginning":
                    asyncio.get_running_loop().call_soon(body.cancel)
                async with task.transaction() as session:
                    await asyncio.to_thread(lambda: orders.insert_one({}, session=session))
                    body.cancel()
                    await asyncio.sleep(20)

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(run())
        assert orders.count_documents({}) == 0
        assert len(aborted) == 1

    asyncio.run(main())
    assert statuses(app) == {"failed": 1}, "a block that had begun has used up its only attempt"


@pytest.mark.parametrize("leave", ["break", "error", "cancel"])
def test_loop_that_is_left_gives_back_the_task_that_was_not_settled(make_app: MakeApp, leave: str) -> None:
    app = make_app()

    async def loop() -> None:
        async for task in Door(app).queue("q").consume():
            assert task.payload == 0
            if leave == "error":
                raise ZeroDivisionError
            if leave == "cancel":
                await asyncio.sleep(20)
            break

    async def main() -> None:
        await Door(app).queue("q").put_many(range(3))
        looping = [asyncio.create_task(loop())]
        await until(lambda: looping[0].done() or statuses(app) == {"ready": 2, "running": 1})
        if leave == "cancel":
            looping[0].cancel()
        await asyncio.wait(looping)
        if leave == "error":
            assert isinstance(looping[0].exception(), ZeroDivisionError)
        looping.clear()  # its traceback refers to the generator
        await until(lambda: statuses(app) == {"ready": 3})

    asyncio.run(main())
    assert [one["attempt"] for one in app.store.find(search_of({}), limit=3)] == [0, 0, 0]


def test_loop_that_is_left_with_its_task_settled_gives_nothing_back(make_app: MakeApp) -> None:
    app = make_app()

    async def main() -> None:
        await Door(app).queue("q").put_many(range(2))
        async for task in Door(app).queue("q").consume():
            async with task:
                break

    asyncio.run(main())
    assert statuses(app) == {"ready": 1, "succeeded": 1}


@pytest.mark.parametrize("by", ["method", "block", "method in its block"])
def test_loop_cancelled_while_its_task_settles_lets_it_settle(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    app = make_app()
    settle = type(app.store).settle

    async def main() -> None:
        await Door(app).queue("q").put("x")
        loop = asyncio.get_running_loop()

        async def consume() -> None:
            async for task in Door(app).queue("q").consume():
                if by == "method":
                    await task.succeed()
                    continue
                async with task:
                    if by != "block":
                        await task.succeed()

        def cancel_and_settle(store: Any, settlements: Any) -> Any:
            moves.append(settlements[0].move)
            if consuming:
                loop.call_soon_threadsafe(consuming[0].cancel)
                time.sleep(0.3)  # on a slow way: what is sent after it would be there before
            return settle(store, settlements)

        moves: list[str] = []
        monkeypatch.setattr(type(app.store), "settle", cancel_and_settle)
        consuming = [asyncio.create_task(consume())]
        await asyncio.wait(consuming)
        assert consuming[0].cancelled()
        consuming.clear()  # its traceback refers to the generator
        await until(lambda: statuses(app) != {"running": 1})
        assert moves == ["succeed"]

    asyncio.run(main())
    assert statuses(app) == {"succeeded": 1}


def test_block_whose_task_somebody_cancels_is_cancelled_and_ends_quietly(make_app: MakeApp) -> None:
    app = make_app()

    async def main() -> None:
        door = Door(app)
        reply = await door.queue("q").put("x")
        task = await door.queue("q").claim(lease_s=1)
        assert task is not None
        async with task:
            assert not await task.cancel_asked()
            assert await door.cancel(reply.id) == "asked"
            assert await task.extend()
            await asyncio.sleep(20)
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0
        assert await door.cancel([reply.id]) == {reply.id: "cancelled"}

    asyncio.run(main())
    assert statuses(app) == {"cancelled": 1}


def test_paused_queue_is_not_claimed_from(make_app: MakeApp) -> None:
    app = make_app()

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x")
        await queue.pause()
        assert await queue.is_paused()
        assert await queue.claim() is None
        await queue.resume()
        assert await queue.claim() is not None

    asyncio.run(main())


def test_claims_that_wait_leave_threads_to_what_settles(make_app: MakeApp) -> None:
    """More of them than the executor has threads: else each settlement would wait until its lease had ended."""
    app = make_app()
    threads = 2
    begun: list[int] = []

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(threads))
        door = Door(app)

        async def consume() -> None:
            async for task in door.queue("q").consume(lease_s=1):
                async with task:
                    begun.append(task.info.attempt)

        consuming = [asyncio.create_task(consume()) for _ in range(threads + 1)]
        await asyncio.sleep(0.3)  # all of them wait
        async with asyncio.timeout(30):
            reply = await door.queue("q").put("x")
            await door.wait(reply.id)
        for one in consuming:
            one.cancel()
        await asyncio.wait(consuming)

    asyncio.run(main())
    assert (begun, statuses(app)) == ([1], {"succeeded": 1})


def test_block_whose_success_is_on_its_way_as_a_beat_finds_it_gone_has_succeeded(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    settle, renew = type(app.store).settle, type(app.store).renew
    stored, gone = threading.Event(), threading.Event()

    def settle_and_wait(store: Any, settlements: Any) -> Any:
        verdicts = settle(store, settlements)
        stored.set()
        assert gone.wait(10)
        time.sleep(0.3)  # the answer is on its way for longer than that of the beat
        return verdicts

    def renew_after(store: Any, claim: Any) -> Any:
        assert stored.wait(10)
        try:
            return renew(store, claim)
        finally:
            gone.set()

    monkeypatch.setattr(type(app.store), "settle", settle_and_wait)
    monkeypatch.setattr(type(app.store), "renew", renew_after)
    reached: list[str] = []

    async def main() -> None:
        queue = Door(app).queue("q")
        await queue.put("x")
        task = await queue.claim(lease_s=1)
        assert task is not None
        async with task:
            await task.succeed()
            reached.append("behind it")

    asyncio.run(main())
    assert (reached, statuses(app)) == (["behind it"], {"succeeded": 1})
