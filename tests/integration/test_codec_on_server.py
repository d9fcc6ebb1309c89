"""Encrypted tasks on a real server: nothing of what they carry is there in the clear, in no collection and no log."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
import trio
from bson import CodecOptions
from bson.raw_bson import RawBSONDocument
from cryptography.fernet import Fernet
from pymongo import MongoClient

import streamq
from examples.encrypted import FernetCodec
from streamq import Retry, TaskFailed
from streamq.core.coding import TAG, TEXT
from streamq.desk import served

if TYPE_CHECKING:
    from tests.integration.conftest import MakeApp

CANARY = "canary-4000-0000"


def new_key() -> str:
    return Fernet.generate_key().decode()


def raw(client: MongoClient[dict[str, Any]], database: str, name: str, wanted: dict[str, Any]) -> list[RawBSONDocument]:
    options: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
    collection: Any = client[database].get_collection(name, codec_options=options)
    return list(collection.find(wanted))


async def test_server_holds_nothing_in_the_clear(
    make_app: MakeApp, mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    since = mongo.admin.command("hello")["lastWrite"]["opTime"]["ts"]
    app = make_app(
        codec=FernetCodec(new_key()), dead_letter_collection="dead", wake="tailable", retry=Retry(max_attempts=1)
    )

    @app.task
    async def charge(card: str, *, fails: bool = False) -> str:
        await streamq.progress(0.5, f"at {card}")
        if fails:
            raise ValueError(f"refused: {card}")
        return f"charged {card}"

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        good, bad = await charge.put(CANARY), await charge.put(CANARY, fails=True)
        delayed = await charge.options(delay_s=60, unique="k").put(CANARY)
        assert await good.result(timeout_s=10) == f"charged {CANARY}"
        with pytest.raises(TaskFailed, match=CANARY):
            await bad.result(timeout_s=10)
        assert (await app.desk.show(delayed.id)).payload == {"card": CANARY}
        nursery.cancel_scope.cancel()
    held = b""
    for name in mongo[database].list_collection_names():
        held += b"".join(one.raw for one in raw(mongo, database, name, {}))
    held += b"".join(one.raw for one in raw(mongo, "local", "oplog.rs", {"ts": {"$gt": since}}))
    assert b"charge" in held  # the handler's name
    assert CANARY.encode() not in held
    assert base64.b64encode(CANARY.encode())[:12] not in held


def test_keys_are_changed_without_losing_a_task(make_app: MakeApp) -> None:
    old, new = new_key(), new_key()
    stages = [make_app(codec=FernetCodec(*keys)).blocking.queue("q") for keys in ([old], [old, new], [new, old], [new])]
    stages[0].put("first")
    stages[2].put("second")
    assert [one.payload for one in (stages[1].pop(), stages[1].pop()) if one] == ["first", "second"]
    stages[2].put("third")
    task = stages[3].pop()
    assert task is not None
    assert task.payload == "third"


def test_what_was_encrypted_for_another_place_is_refused(
    make_app: MakeApp, mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    app = make_app(codec=FernetCodec(new_key()))
    queue, other = app.blocking.queue("q"), app.blocking.queue("other")
    queue.put("pay ann")
    moved = other.put("pay bob")
    tasks = mongo[database]["tasks"]
    stored = tasks.find_one({"queue": "q"})
    assert stored is not None
    assert set(stored["payload"]) == {TAG}
    tasks.update_one({"_id": moved.id}, {"$set": {"payload": stored["payload"]}})
    assert other.claim() is None
    (failed,) = app.blocking.desk.find(status="failed")
    assert (failed.id, failed.errors[0].type) == (moved.id, "PayloadUndecodable")
    assert TAG in repr(failed.payload)


def test_transaction_stores_an_encrypted_result(
    make_app: MakeApp, mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    app = make_app(codec=FernetCodec(new_key()))
    queue = app.blocking.queue("q")
    id = queue.put(1).id
    task = queue.claim()
    assert task is not None
    transaction = task.transaction()
    with transaction:
        transaction.result = CANARY
    assert app.blocking.result(id) == CANARY
    assert CANARY not in repr(mongo[database]["tasks"].find_one({"_id": id}))


def test_program_without_the_key_sees_the_coded_forms(make_app: MakeApp) -> None:
    make_app(codec=FernetCodec(new_key())).blocking.queue("q").put({"card": CANARY})
    (view,) = make_app().blocking.desk.find()
    assert set(view.payload) == {TAG}
    assert TEXT.startswith(TAG)
    assert served(make_app(codec=FernetCodec(new_key())).store).client is not None
