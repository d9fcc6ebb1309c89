"""A collection that is dropped or renamed under a running worker comes back as it must be: with its indexes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import pytest
import trio

from streamq import StreamQ
from streamq.core.indexes import META_INDEXES, needed
from streamq.errors import StoreError
from streamq.runtime import mender
from streamq.store.contract import Store
from streamq.store.mongo import MongoStore
from tests.databases import rename
from tests.integration.conftest import MakeApp, Mongo
from tests.integration.echo import echoing

SOON_S: Final = 10.0
"""How soon what is promised must have come; it takes tenths of a second."""

GOES: Final[dict[str, Callable[[Mongo, str], object]]] = {
    "drop": lambda mongo, name: mongo[name].tasks.drop(),
    "rename": lambda mongo, name: rename(mongo[name].tasks, "old"),
    "drop database": lambda mongo, name: mongo.drop_database(name),
}


async def until(condition: Callable[[], Any], what: str) -> None:
    """Look again until it holds: the server tells nobody of an index."""
    with trio.move_on_after(SOON_S):
        while not await trio.to_thread.run_sync(condition):  # noqa: ASYNC110
            await trio.sleep(0.02)
        return
    raise AssertionError(f"never came: {what}")


def there(mongo: Mongo, name: str, collection: str = "tasks") -> set[str]:
    """Name the indexes that are there, without those that are being made."""
    made = {str(one["name"]) for one in mongo[name][collection].list_indexes()} - {"_id_"}
    return made - set(mongo[name].command("collStats", collection)["indexBuilds"]) if made else made


@pytest.mark.parametrize("how", GOES)
async def test_collection_that_goes_comes_back_with_the_indexes_of_what_is_in_use(
    make_app: MakeApp, mongo: Mongo, database: str, how: str
) -> None:
    """Also of features that were announced in what is gone: who has announced them will not do so again."""
    here, elsewhere = make_app(safety_scan_s=None, lease_s=1.0), make_app()
    echo = echoing(here)
    all_of_them = {index.name for index in needed({"search", "expiry"})}
    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        await elsewhere.queue("nobody").put(1, tag="t", expires_in_s=60)
        await until(lambda: there(mongo, database) == all_of_them, "the indexes of what is in use")
        GOES[how](mongo, database)
        await elsewhere.put_many([echo.new("after")])
        await until(lambda: there(mongo, database) == all_of_them, "the indexes, again")
        await until(
            lambda: there(mongo, database, "tasks.meta") == {index.name for index in META_INDEXES}, "those beside"
        )
        expiring = await elsewhere.queue("nobody").put(1, expires_in_s=0.1)
        await until(lambda: _status(mongo, database, expiring.id) == "expired", "the end of what expires")
        nursery.cancel_scope.cancel()
    assert here.journal.counts["indexes missing"] == 0


def _status(mongo: Mongo, name: str, id: Any) -> str | None:
    found = mongo[name].tasks.find_one({"_id": id}, {"status": 1})
    return None if found is None else found["status"]


@pytest.mark.parametrize("how", GOES)
async def test_unique_keys_are_given_once_again_after_the_collection_went(
    make_app: MakeApp, mongo: Mongo, database: str, how: str
) -> None:
    here, elsewhere = make_app(safety_scan_s=None, lease_s=1.0), make_app()
    echoing(here)
    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        GOES[how](mongo, database)
        await until(lambda: "streamq_unique" in there(mongo, database), "the unique index")
        outcomes = [(await elsewhere.queue("nobody").put(1, unique="k")).outcome for _ in range(2)]
        nursery.cancel_scope.cancel()
    assert outcomes == ["created", "existing"]


async def test_twins_put_before_the_index_is_back_are_told_of_and_it_comes_once_they_are_none(
    make_app: MakeApp, mongo: Mongo, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mender, "AGAIN_S", 0.1)
    here, elsewhere = make_app(safety_scan_s=None, lease_s=1.0), make_app()
    echoing(here)
    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        with held(here.store, monkeypatch) as go_on:
            mongo[database].tasks.drop()
            twins = [await elsewhere.queue("nobody").put(1, unique="k") for _ in range(2)]
            go_on.set()
        base = {index.name for index in needed({"search"})}
        await until(lambda: there(mongo, database) == base - {"streamq_unique"}, "all indexes but that one")
        await _said(here, "indexes missing")
        await twins[0].cancel()
        await until(lambda: there(mongo, database) == base, "the unique index")
        assert (await elsewhere.queue("nobody").put(1, unique="k")).outcome == "existing"
        nursery.cancel_scope.cancel()


class held:  # noqa: N801 - used as a function
    """Hold back the mending of the indexes until the event that this yields is set."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self._go_on = threading.Event()
        mend = store.mend

        def wait() -> Any:
            self._go_on.wait(SOON_S)
            return mend()

        monkeypatch.setattr(store, "mend", wait)

    def __enter__(self) -> threading.Event:
        return self._go_on

    def __exit__(self, *_: object) -> None:
        self._go_on.set()


async def _said(app: StreamQ, event: str) -> None:
    with trio.fail_after(SOON_S):
        while not app.journal.counts[event]:  # noqa: ASYNC110
            await trio.sleep(0.02)


def test_twins_keep_nobody_from_starting_but_the_one_who_makes_the_indexes_by_hand(
    make_app: MakeApp, mongo: Mongo, database: str
) -> None:
    """A worker that did not start would leave the twins where they are."""
    app = make_app()
    store = app.store
    assert isinstance(store, MongoStore)
    mongo[database].tasks.insert_many([{"queue": "q", "unique_lock": b"k"} for _ in range(2)])
    store.prepare()
    assert there(mongo, database) == {index.name for index in needed(set())} - {"streamq_unique"}
    assert store.mend() == ["streamq_unique"]
    with pytest.raises(StoreError, match="streamq_unique"):
        store.prepare(strictly=True)
