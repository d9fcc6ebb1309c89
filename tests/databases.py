"""Prepared databases that tests use one after the other: what a test leaves is taken out, its indexes stay.

To make the collections with all their indexes and to drop them takes the server many times as long as most tests here
take, and wears its disk. It suits tests of a store, which leave nobody behind who would still write. What holds a
program or a thread of its own takes a fresh database instead.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from pymongo import MongoClient, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure

from streamq.core.features import FEATURES
from streamq.store.mongo import MongoStore

Mongo = MongoClient[dict[str, Any]]
Shape = dict[str, tuple[Any, ...]]

DURABLE: Final = WriteConcern("majority", j=True)
"""Without `j` the majority waits for the journal's next turn, which comes every 100 ms."""

INDEX_IN_THE_MAKING: Final = 12_587
"""BackgroundOperationInProgressForNamespace."""

FEW: Final = 1_000
"""Documents; to make a database anew takes no longer than to take more than these out."""


class Databases:
    """Lends databases that are prepared for whatever a task may take part in, with nothing in them."""

    def __init__(
        self,
        client: Mongo,
        dead_letters: str | None = None,
        made: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`made` is called with the name of each database that is made."""
        self._client = client
        self._made = made
        self._dead_letters = dead_letters
        self._free: list[str] = []
        self._shape: Shape = {}

    @contextmanager
    def lend(self) -> Iterator[str]:
        """Yield the name of a database; one that the test filled or whose shape it changed is not lent again."""
        name = self._free.pop() if self._free else self._make()
        yield name
        if self._shape_of(name) == self._shape and self._size_of(name) <= FEW:
            self._empty(name)
            self._free.append(name)
        else:
            drop_collections(self._client, name)

    def _make(self) -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._made(name)
        store = MongoStore(self._client, name, dead_letters=self._dead_letters)
        store.prepare()
        store.use(FEATURES)
        self._shape = self._shape_of(name)
        self._empty(name)  # of what `use` has announced
        return name

    # Plain commands from here on: the methods of `Collection` may still be what the test replaced them by.

    def _shape_of(self, name: str) -> Shape:
        database = self._client[name]
        shape: Shape = {}
        for one in _batch(database, "listCollections", 1):
            indexes = _batch(database, "listIndexes", one["name"]) if one["type"] == "collection" else []
            shape[one["name"]] = (one["type"], one["options"], sorted(map(str, indexes)))
        return shape

    def _size_of(self, name: str) -> int:
        return sum(self._client[name].command("count", collection)["n"] for collection in self._shape)

    def _empty(self, name: str) -> None:
        """Take all out; the last write waits until the majority has all of them, so that no read finds what was."""
        database = self._client[name]
        all_of_them = [{"q": {}, "limit": 0}]
        for collection in self._shape:
            database.command("delete", collection, deletes=all_of_them, writeConcern={"w": 1})
            database.command("planCacheClear", collection)
        database.command("delete", collection, deletes=all_of_them, writeConcern=DURABLE.document)


def _batch(database: Database[dict[str, Any]], command: str, value: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = database.command(command, value)["cursor"]["firstBatch"]
    return found


def rename(collection: Collection[dict[str, Any]], name: str) -> None:
    """Rename it, once the server is through with making its indexes."""
    until = time.monotonic() + 10.0
    while True:
        try:
            collection.rename(name)
        except OperationFailure as error:
            if error.code != INDEX_IN_THE_MAKING or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def drop_collections(client: Mongo, name: str) -> None:
    """End a database: it ends with its last collection. To drop that takes 4 ms, `dropDatabase` 100 ms."""
    database = client.get_database(name, write_concern=DURABLE)
    for collection in database.list_collection_names():
        database.drop_collection(collection)
