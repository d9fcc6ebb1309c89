"""A task that succeeds in a transaction: its holder's own writes and its success are stored together, or neither."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
import trio
from pymongo import MongoClient
from pymongo.collection import Collection

import streamq
from streamq import LeaseLost, OutcomeUnknown, PayloadTooLarge, Retry, StreamQ, Task, TransactionAborted, UsageError
from streamq.testing import memory_app
from tests.integration.conftest import MakeApp

T = TypeVar("T")


async def in_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    return await trio.to_thread.run_sync(lambda: function(*args, **kwargs))


@pytest.fixture
def app(make_app: MakeApp) -> StreamQ:
    return make_app(retry=Retry(max_attempts=3, first_s=0))


@pytest.fixture
def orders(app: StreamQ, mongo: MongoClient[dict[str, Any]], database: str) -> Collection[dict[str, Any]]:
    mongo[database].create_collection("orders")
    return app.client[database]["orders"]


def tasks(app: StreamQ, database: str) -> list[dict[str, Any]]:
    return list(app.client[database].tasks.find({"status": {"$exists": True}}).sort("_id"))


def lease_left_s(app: StreamQ, database: str) -> float:
    until: datetime = tasks(app, database)[0]["lease_until"]
    return (until.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()


def take_over(app: StreamQ, database: str) -> None:
    app.client[database].tasks.update_one({"status": "running"}, {"$set": {"claim_id": b"somebody else's."}})


@contextmanager
def failing(app: StreamQ, commands: list[str], times: int, **data: Any) -> Iterator[None]:
    """Let commands of this client's fail."""
    admin = app.client.admin
    name = {"failCommands": commands, **data}
    admin.command("configureFailPoint", "failCommand", mode={"times": times}, data=name)
    try:
        yield
    finally:
        admin.command("configureFailPoint", "failCommand", mode="off")


async def claimed(app: StreamQ, payload: Any = 1, **options: Any) -> Task:
    await app.queue("q").put(payload, **options)
    task = await app.queue("q").claim()
    assert task is not None
    return task


async def test_own_writes_and_success_are_committed_together(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str
) -> None:
    async with app:
        task = await claimed(app)
        transaction = task.transaction()
        async with task, transaction as session:
            await in_thread(orders.insert_one, {"_id": 1}, session=session)
            assert orders.count_documents({}) == 0
            transaction.result = {"rows": 1}
            # Whatever is settled by leaving the block now comes too late.
        (stored,) = tasks(app, database)
        assert (stored["status"], stored["result"], stored["attempt"]) == ("succeeded", {"rows": 1}, 1)
        assert orders.count_documents({}) == 1
        assert len(app.services().holdings) == 0
        with pytest.raises(UsageError, match="settled here already"):
            await task.succeed()


async def test_error_in_the_block_aborts_both_and_fails_the_attempt(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str
) -> None:
    async with app:
        async with await claimed(app) as task, task.transaction() as session:
            await in_thread(orders.insert_one, {"_id": 1}, session=session)
            raise ValueError("no")
        (stored,) = tasks(app, database)
        assert (stored["status"], stored["attempt"], stored["errors"][0]["message"]) == ("ready", 1, "no")
        assert orders.count_documents({}) == 0


async def test_lost_lease_aborts_both(app: StreamQ, orders: Collection[dict[str, Any]], database: str) -> None:
    async with app:
        task = await claimed(app)
        with pytest.raises(LeaseLost):  # noqa: PT012
            async with task.transaction() as session:
                await in_thread(orders.insert_one, {"_id": 1}, session=session)
                take_over(app, database)
        assert orders.count_documents({}) == 0
        assert task.is_lost
        assert tasks(app, database)[0]["status"] == "running"


async def test_lease_lost_before_the_transaction_is_noticed_as_it_begins(app: StreamQ, database: str) -> None:
    async with app:
        task = await claimed(app)
        take_over(app, database)
        with pytest.raises(LeaseLost):
            async with task.transaction():
                raise AssertionError("it began")


async def test_transaction_longer_than_three_beats_commits_and_the_neighbours_are_extended(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str
) -> None:
    """The keeper beats three times a lease of one second; a task of the batch that it touched would conflict."""
    async with app:
        queue = app.queue("q")
        await queue.put_many(range(3))
        task, *neighbours = await queue.claim_many(3, lease_s=1)
        async with task.transaction() as session:
            await in_thread(orders.insert_one, {"_id": 1}, session=session)
            await trio.sleep(1.6)
            now = datetime.now(UTC)
            for stored in tasks(app, database):
                assert stored["lease_until"].replace(tzinfo=UTC) > now
        assert not any(one.is_lost for one in neighbours)
        for one in neighbours:
            await one.succeed()
        assert {stored["status"] for stored in tasks(app, database)} == {"succeeded"}
        assert orders.count_documents({}) == 1
        assert app.journal.counts["lease lost"] == 0


async def test_lease_is_an_ordinary_one_again_after_an_aborted_transaction(app: StreamQ, database: str) -> None:
    async with app:
        await app.queue("q").put(1)
        (task,) = await app.queue("q").claim_many(1, lease_s=1)
        with pytest.raises(ZeroDivisionError):
            async with task.transaction():
                raise ZeroDivisionError
        with trio.fail_after(5):
            while lease_left_s(app, database) > 2:  # noqa: ASYNC110 - another process would see it so
                await trio.sleep(0.02)
        await task.succeed()


async def test_write_conflict_ends_the_attempt_uncounted_and_stores_nothing(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str
) -> None:
    orders.insert_one({"_id": 1, "n": 0})
    async with app:
        async with await claimed(app) as task, task.transaction() as session:
            await in_thread(orders.find_one, {"_id": 1}, session=session)  # the snapshot is taken
            orders.update_one({"_id": 1}, {"$set": {"n": 5}})
            await in_thread(orders.update_one, {"_id": 1}, {"$inc": {"n": 1}}, session=session)
        (stored,) = tasks(app, database)
        assert (stored["status"], stored["attempt"], stored.get("errors")) == ("delayed", 0, None)
        assert orders.find_one({"_id": 1}) == {"_id": 1, "n": 5}


async def test_writer_of_the_task_itself_makes_it_be_put_back_with_a_clear_error(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str
) -> None:
    async with app:
        task = await claimed(app)
        with pytest.raises(TransactionAborted, match="nothing of it is stored"):  # noqa: PT012
            async with task.transaction() as session:
                await in_thread(orders.insert_one, {"_id": 1}, session=session)
                app.client[database].tasks.update_one({"status": "running"}, {"$set": {"note": "x"}})
        assert orders.count_documents({}) == 0
        await task.release()  # it is still held
        assert tasks(app, database)[0]["status"] == "ready"


@pytest.mark.parametrize("how", [{"closeConnection": True}, {"errorCode": 50}], ids=["line", "time"])
async def test_commit_whose_answers_are_lost_is_sent_again_and_the_body_is_not(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str, how: dict[str, Any]
) -> None:
    """A lost line the driver sees to itself; that the server's time for it was over only this does."""
    bodies = 0
    async with app:
        task = await claimed(app)
        with failing(app, ["commitTransaction"], 3, **how):
            async with task.transaction() as session:
                bodies += 1
                await in_thread(orders.insert_one, {"_id": 1}, session=session)
        assert bodies == 1
        assert tasks(app, database)[0]["status"] == "succeeded"
        assert orders.count_documents({}) == 1


async def test_commit_that_was_applied_and_whose_outcome_stays_unknown_is_found_by_reading_back(
    make_app: MakeApp, orders: Collection[dict[str, Any]], database: str
) -> None:
    app = make_app(timeout_s=1)
    async with app:
        task = await claimed(app)
        # Applied each time, and each time answered as if no majority had it.
        unknown = {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "timed out", "errInfo": {"wtimeout": True}}
        with failing(app, ["commitTransaction"], 1_000, writeConcernError=unknown):
            async with task.transaction() as session:
                await in_thread(app.client[database]["orders"].insert_one, {"_id": 1}, session=session)
        assert tasks(app, database)[0]["status"] == "succeeded"
        assert orders.count_documents({}) == 1


@pytest.fixture
def short_lives(mongo: MongoClient[dict[str, Any]]) -> Iterator[None]:
    """The server ends transactions after a second."""
    mongo.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 1})
    yield
    mongo.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 60})


@pytest.mark.usefixtures("short_lives")
async def test_commit_that_nobody_answers_is_told_as_unknown_and_the_task_is_still_held(
    make_app: MakeApp, orders: Collection[dict[str, Any]], database: str
) -> None:
    app = make_app(timeout_s=0.7)
    async with app:
        task = await claimed(app)
        with (
            failing(app, ["commitTransaction"], 100_000, errorCode=11602, errorLabels=["RetryableWriteError"]),
            pytest.raises(OutcomeUnknown),
        ):
            async with task.transaction() as session:
                await in_thread(app.client[database]["orders"].insert_one, {"_id": 1}, session=session)
        assert orders.count_documents({}) == 0
        await task.release()  # waits for the server to end the transaction
        assert tasks(app, database)[0]["status"] == "ready"


@pytest.mark.open("asks how long the server lets a transaction live, which no role may")
@pytest.mark.usefixtures("short_lives")
async def test_transaction_that_outlives_the_servers_limit_is_an_error_that_counts(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str
) -> None:
    """It would be given up so every time: uncounted, it would run for ever."""
    async with app:
        async with await claimed(app) as task, task.transaction() as session:
            await in_thread(orders.insert_one, {"_id": 1}, session=session)
            await trio.sleep(3)
        (stored,) = tasks(app, database)
        assert stored["attempt"] == 1
        assert "transactionLifetimeLimitSeconds" in stored["errors"][0]["message"]
        assert orders.count_documents({}) == 0


async def test_run_in_transaction_runs_the_function_again_after_a_conflict(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str
) -> None:
    orders.insert_one({"_id": 1, "n": 0})
    tries = 0

    def count(session: Any) -> int:
        nonlocal tries
        tries += 1
        orders.find_one({"_id": 1}, session=session)
        if tries == 1:
            orders.update_one({"_id": 1}, {"$set": {"n": 5}})
        orders.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)
        return tries

    async with app:
        async with await claimed(app) as task:
            assert await task.run_in_transaction(count) == 2
        (stored,) = tasks(app, database)
        assert (stored["status"], stored["attempt"], stored["result"]) == ("succeeded", 1, 2)
        assert orders.find_one({"_id": 1}) == {"_id": 1, "n": 6}


async def test_commit_whose_reply_is_lost_is_asked_for_again_and_is_there_once(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str
) -> None:
    orders.insert_one({"_id": 1, "n": 0})
    point, mode, data = "onPrimaryTransactionalWrite", {"times": 1}, {"closeConnection": True}

    def count(session: Any) -> None:
        orders.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)

    async with app:
        async with await claimed(app) as task:
            before = app.client.admin.command("configureFailPoint", point, mode=mode, data=data)
            await task.run_in_transaction(count)
            after = app.client.admin.command("configureFailPoint", point, mode="off")
        assert after["count"] == before["count"] + 1, "no reply was lost"
        (stored,) = tasks(app, database)
        assert (stored["status"], stored["attempt"]) == ("succeeded", 1)
        assert orders.find_one() == {"_id": 1, "n": 1}


async def test_run_in_transaction_lets_other_errors_out(app: StreamQ, database: str) -> None:
    def fail(session: Any) -> None:
        raise KeyError("mine")

    async with app:
        task = await claimed(app)
        with pytest.raises(KeyError):
            await task.run_in_transaction(fail)
        with pytest.raises(UsageError, match="plain function"):
            await task.run_in_transaction(in_thread)  # type: ignore[unused-coroutine]
        await task.succeed()


async def test_result_too_large_aborts_both(app: StreamQ, orders: Collection[dict[str, Any]]) -> None:
    async with app:
        task = await claimed(app)
        transaction = task.transaction()
        with pytest.raises(PayloadTooLarge):  # noqa: PT012
            async with transaction as session:
                await in_thread(orders.insert_one, {"_id": 1}, session=session)
                transaction.result = "x" * 2_000_000
        assert orders.count_documents({}) == 0


async def test_task_deleted_at_its_success_is_deleted_with_the_commit(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str
) -> None:
    async with app:
        async with await claimed(app, keep_s=0) as task, task.transaction() as session:
            await in_thread(orders.insert_one, {"_id": 1}, session=session)
        assert tasks(app, database) == []
        assert orders.count_documents({}) == 1


async def test_cancelled_block_aborts_and_gives_the_task_back(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str
) -> None:
    async with app:
        task = await claimed(app)
        with trio.CancelScope() as scope:
            async with task, task.transaction() as session:
                await in_thread(orders.insert_one, {"_id": 1}, session=session)
                scope.cancel()
                await trio.sleep_forever()
        (stored,) = tasks(app, database)
        assert (stored["status"], stored["attempt"]) == ("ready", 0)
        assert orders.count_documents({}) == 0


async def test_inside_its_transaction_a_task_is_neither_settled_nor_extended(app: StreamQ) -> None:
    async with app:
        task = await claimed(app)
        async with task.transaction():
            for attempt in (task.succeed, task.release, task.extend):
                with pytest.raises(UsageError, match="in a transaction"):
                    await attempt()
            with pytest.raises(UsageError, match="in a transaction"):
                async with task.transaction():
                    raise AssertionError


async def test_put_with_the_session_is_stored_with_the_success(app: StreamQ) -> None:
    async with app:
        async with await claimed(app) as task, task.transaction() as session:
            await app.queue("next").put("x", session=session)
        assert (await app.counts()) == {"next": {"ready": 1}, "q": {"succeeded": 1}}


async def test_handlers_of_both_kinds_succeed_in_their_transactions(
    app: StreamQ, orders: Collection[dict[str, Any]], mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    @app.task(queue="q")
    async def pay(order: int) -> str:
        own = streamq.transaction()
        async with own as session:
            await in_thread(orders.insert_one, {"_id": order}, session=session)
            await streamq.progress(0.5, "inside")  # a write beside the transaction would be a conflict
            own.result = "in the transaction"
        return "afterwards"

    @app.task(queue="q", timeout_s=20)
    def pay_in_thread(order: int) -> None:
        with streamq.transaction() as session:
            orders.insert_one({"_id": order}, session=session)

    @app.task(queue="q")
    async def pay_again(order: int) -> str:
        return await streamq.run_in_transaction(lambda s: str(orders.insert_one({"_id": order}, session=s).inserted_id))

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work, "q")
        handles: list[streamq.Handle[Any]] = [await pay.put(1), await pay_in_thread.put(2), await pay_again.put(3)]
        assert [await one.result(timeout_s=10) for one in handles] == ["in the transaction", None, "3"]
        nursery.cancel_scope.cancel()
    assert sorted(one["_id"] for one in mongo[database].orders.find()) == [1, 2, 3]
    assert app.journal.counts["succeed"] == 3
    first = mongo[database].tasks.find_one({"task": "pay"})
    assert first is not None
    assert (first["attempt"], first["progress"]["note"]) == (1, "inside")


async def test_handler_whose_transaction_meets_a_conflict_runs_again_uncounted(
    app: StreamQ, orders: Collection[dict[str, Any]], mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    orders.insert_one({"_id": 1, "n": 0})
    attempts: list[int] = []

    @app.task(queue="q")
    async def pay() -> None:
        attempts.append(streamq.current_task().attempt)
        async with streamq.transaction() as session:
            await in_thread(orders.find_one, {"_id": 1}, session=session)
            if len(attempts) == 1:
                orders.update_one({"_id": 1}, {"$set": {"n": 5}})
            await in_thread(orders.update_one, {"_id": 1}, {"$inc": {"n": 1}}, session=session)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work, "q")
        await (await pay.put()).result(timeout_s=10)
        nursery.cancel_scope.cancel()
    assert attempts == [1, 1]
    assert mongo[database].orders.find_one({"_id": 1}) == {"_id": 1, "n": 6}


async def test_handler_that_loses_its_lease_in_the_transaction_stores_nothing(
    app: StreamQ, orders: Collection[dict[str, Any]], mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    heard = trio.Event()

    @app.task(queue="q")
    async def pay() -> None:
        try:
            async with streamq.transaction() as session:
                await in_thread(orders.insert_one, {"_id": 1}, session=session)
                take_over(app, database)
        except LeaseLost:
            heard.set()
            raise

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work, "q")
        await pay.put()
        with trio.fail_after(10):
            await heard.wait()
        nursery.cancel_scope.cancel()
    assert mongo[database].orders.count_documents({}) == 0
    (stored,) = mongo[database].tasks.find({"status": {"$exists": True}})
    assert (stored["status"], stored["claim_id"]) == ("running", b"somebody else's.")


def test_transaction_outside_of_a_handler_is_refused() -> None:
    with pytest.raises(UsageError, match="outside of a handler"):
        streamq.transaction()


async def test_app_in_memory_says_that_it_has_no_transactions() -> None:
    app = memory_app()
    async with app:
        task = await claimed(app)
        with pytest.raises(UsageError, match="no transactions"):
            async with task.transaction():
                raise AssertionError
        await task.succeed()


# --- blocking ------------------------------------------------------------------------------------------------------


def blocking_claimed(app: StreamQ) -> streamq.BlockingTask:
    app.blocking.queue("q").put(1)
    task = app.blocking.queue("q").claim()
    assert task is not None
    return task


def test_blocking_transaction_commits_both_or_neither(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str
) -> None:
    task = blocking_claimed(app)
    with task, task.transaction() as session:
        orders.insert_one({"_id": 1}, session=session)
        raise ValueError("no")
    assert orders.count_documents({}) == 0
    again = app.blocking.queue("q").claim()
    assert again is not None
    assert again.info.attempt == 2
    transaction = again.transaction()
    with again, transaction as session:
        orders.insert_one({"_id": 1}, session=session)
        transaction.result = 7
    assert app.blocking.result(again.info.id) == 7
    assert orders.count_documents({}) == 1


def test_blocking_transaction_of_a_lost_task_stores_nothing(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str
) -> None:
    task = blocking_claimed(app)
    with pytest.raises(LeaseLost), task.transaction() as session:  # noqa: PT012
        orders.insert_one({"_id": 1}, session=session)
        take_over(app, database)
    assert orders.count_documents({}) == 0


def test_blocking_conflict_puts_the_task_back_uncounted(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str
) -> None:
    orders.insert_one({"_id": 1, "n": 0})
    with blocking_claimed(app) as task, task.transaction() as session:
        orders.find_one({"_id": 1}, session=session)
        orders.update_one({"_id": 1}, {"$set": {"n": 5}})
        orders.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)
    (stored,) = tasks(app, database)
    assert (stored["status"], stored["attempt"]) == ("delayed", 0)


def test_blocking_commit_whose_answers_are_lost_is_sent_again_and_the_body_is_not(
    app: StreamQ, orders: Collection[dict[str, Any]], database: str
) -> None:
    bodies = 0
    task = blocking_claimed(app)
    with failing(app, ["commitTransaction"], 3, errorCode=50), task, task.transaction() as session:
        bodies += 1
        orders.insert_one({"_id": 1}, session=session)
    assert bodies == 1
    assert tasks(app, database)[0]["status"] == "succeeded"
    assert orders.count_documents({}) == 1


def test_blocking_run_in_transaction_runs_again_after_a_conflict(
    app: StreamQ, orders: Collection[dict[str, Any]], mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    orders.insert_one({"_id": 1, "n": 0})
    tries = 0

    def count(session: Any) -> int:
        nonlocal tries
        tries += 1
        orders.find_one({"_id": 1}, session=session)
        if tries == 1:
            orders.update_one({"_id": 1}, {"$set": {"n": 5}})
        orders.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=session)
        return tries

    task = blocking_claimed(app)
    assert task.run_in_transaction(count) == 2
    assert app.blocking.result(task.info.id) == 2
