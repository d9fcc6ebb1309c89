"""Puts in the caller's own transaction."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from pymongo import MongoClient
from pymongo.client_session import ClientSession

from streamq import OptionInvalid, StreamQ, UniqueConflict

Client = MongoClient[dict[str, Any]]


def test_put_is_stored_if_and_only_if_the_callers_transaction_commits(uri: str, database: str) -> None:
    app = StreamQ(uri, database=database)
    mail = app.blocking.queue("mail")
    orders = app.client[database]["orders"]
    with app.client.start_session() as session:
        with session.start_transaction():
            orders.insert_one({"_id": 1}, session=session)
            mail.put({"order": 1}, session=session)
        session.start_transaction()
        orders.insert_one({"_id": 2}, session=session)
        mail.put({"order": 2}, session=session)
        session.abort_transaction()
    task = mail.claim()
    assert task is not None
    assert task.payload == {"order": 1}
    assert mail.claim() is None
    app.close()


def test_put_as_the_first_use_of_an_app_works_inside_a_transaction(uri: str, database: str) -> None:
    """Making the indexes inside it would fail: the snapshot is older than the collection."""
    app = StreamQ(uri, database=database)
    mail = app.blocking.queue("mail")
    with app.client.start_session() as session, session.start_transaction():
        app.client[database]["orders"].insert_one({"_id": 1}, session=session)
        mail.put("x", session=session)
    assert mail.claim() is not None
    app.close()


def test_put_leaves_the_retry_of_a_transaction_to_the_driver(uri: str, database: str) -> None:
    """`with_transaction` runs again on an error with the driver's label: a translated error would end it."""
    app = StreamQ(uri, database=database)
    mail = app.blocking.queue("mail")
    tries = 0

    def order(session: ClientSession) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            app.client.admin.command(
                "configureFailPoint",
                "failCommand",
                mode={"times": 1},
                data={
                    "failCommands": ["insert"],
                    "errorCode": 112,  # WriteConflict
                    "errorLabels": ["TransientTransactionError"],
                    "namespace": f"{database}.tasks",
                },
            )
        mail.put({"order": 1}, session=session)

    with app.client.start_session() as session:
        session.with_transaction(order)
    assert tries == 2
    assert mail.claim() is not None
    assert mail.claim() is None
    app.close()


def test_put_refuses_the_session_of_another_client_by_name(uri: str, database: str) -> None:
    app = StreamQ(uri, database=database)
    mail = app.blocking.queue("mail")
    with Client(uri) as other, other.start_session() as session, pytest.raises(OptionInvalid, match="session"):
        mail.put("x", session=session)
    assert mail.claim() is None
    app.close()


async def test_put_from_trio_takes_a_session_too(uri: str, database: str) -> None:
    app = StreamQ(uri, database=database)
    async with app:
        mail = app.queue("mail")
        with app.client.start_session() as session:
            with session.start_transaction():
                await mail.put("kept", session=session)
            session.start_transaction()
            await mail.put("dropped", session=session)
            session.abort_transaction()
        assert (await app.counts())["mail"] == {"ready": 1}


async def test_puts_of_a_transaction_wake_another_process_at_the_commit_and_never_before(
    uri: str, database: str
) -> None:
    app, other = StreamQ(uri, database=database), StreamQ(uri, database=database, safety_scan_s=None)

    @app.task(queue="mail")
    async def send(to: int) -> None: ...

    async with app, other:
        with app.client.start_session() as session:
            session.start_transaction()
            await app.put_many([send.new(0)], session=session)
            session.abort_transaction()
            session.start_transaction()
            await app.put_many([send.new(1), send.options(priority=1).new(2)], session=session)
            await app.queue("mail").put_many([3], session=session)
            assert await other.queue("mail").claim(wait_s=0.3) is None
            session.commit_transaction()
        got: list[object] = []
        while len(got) < 3:
            task = await other.queue("mail").claim(wait_s=10)
            assert task is not None
            await task.succeed()
            got.append(task.payload)
        assert got == [{"to": 2}, {"to": 1}, 3]
        assert await other.queue("mail").claim() is None


async def test_put_of_a_transaction_is_run_by_a_worker_of_its_own_process_after_the_commit(
    uri: str, database: str
) -> None:
    """Who put it says nothing of it here before it is there: the word would be spent."""
    app = StreamQ(uri, database=database, safety_scan_s=None)
    ran = trio.Event()

    @app.task(queue="mail")
    async def send() -> None:
        ran.set()

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        with app.client.start_session() as session, session.start_transaction():
            await app.put_many([send.new()], session=session)
            await app.counts()  # the worker has its turn, and any word of the put by now
            assert not ran.is_set()
        with trio.fail_after(10):
            await ran.wait()
        nursery.cancel_scope.cancel()


async def test_a_put_through_a_handler_joins_the_callers_transaction(uri: str, database: str) -> None:
    app = StreamQ(uri, database=database)

    @app.task(queue="mail")
    async def send(to: int) -> None: ...

    async with app:
        with app.client.start_session() as session:
            session.start_transaction()
            await send.options(session=session).put(0)
            session.abort_transaction()
            session.start_transaction()
            handle = await send.options(session=session, priority=3, unique="k").put(1)
            with pytest.raises(UniqueConflict):
                await send.options(session=session, unique="k", on_conflict="raise").put(2)
            assert await app.counts() == {}
            session.commit_transaction()
        assert handle.created
        (task,) = await app.desk.find()
        assert (task.id, task.priority) == (handle.id, 3)


def test_a_blocking_put_through_a_handler_joins_the_callers_transaction(uri: str, database: str) -> None:
    app = StreamQ(uri, database=database)

    @app.task(queue="mail")
    async def send(to: int) -> None: ...

    mail = app.blocking.handler(send)
    with app.client.start_session() as session:
        session.start_transaction()
        mail.options(session=session).put(0)
        session.abort_transaction()
        session.start_transaction()
        reply = mail.options(session=session, priority=3).put(to=1)
        assert app.blocking.counts() == {}
        session.commit_transaction()
    assert mail.put(2).created
    assert [(one.id, one.priority) for one in app.blocking.desk.find() if one.priority] == [(reply.id, 3)]
    app.close()


def test_options_with_a_session_build_no_task_for_another_put(uri: str, database: str) -> None:
    """It would be stored outside of the transaction that they name."""
    app = StreamQ(uri, database=database)

    @app.task
    def send(to: int) -> None: ...

    with app.client.start_session() as session:
        with pytest.raises(OptionInvalid, match="session"):
            send.options(session=session).new(1)
        with pytest.raises(OptionInvalid, match="session"):
            app.blocking.handler(send).options(session=session).new(1)
    assert app.blocking.handler(send).options(priority=1).new(1).priority == 1
    app.close()


@pytest.mark.parametrize("kind", ["no session", "no transaction", "ended transaction"])
def test_put_refuses_by_name_what_is_no_session_in_a_transaction(uri: str, database: str, kind: str) -> None:
    """It would be stored at once, and stay if the caller's own writes do not."""
    app = StreamQ(uri, database=database)
    mail = app.blocking.queue("mail")
    with app.client.start_session() as session:
        if kind == "ended transaction":
            session.start_transaction()
            app.client[database]["orders"].insert_one({}, session=session)
            session.commit_transaction()
        given: Any = object() if kind == "no session" else session
        for put in (lambda: mail.put("x", session=given), lambda: mail.put_many(["x"], session=given)):
            with pytest.raises(OptionInvalid, match="session"):
                put()
    assert app.blocking.counts() == {}
    app.close()
