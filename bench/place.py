"""Where a round takes place: a server, a database of its own, and the tasks collection in it as streamq makes it."""

from __future__ import annotations

from typing import Any

import msgspec
from bson.codec_options import CodecOptions
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.write_concern import WriteConcern

from streamq.store.mongo import MongoStore


class Place(msgspec.Struct, frozen=True):
    """A server and a database. Plain values: it travels to the processes of a round."""

    uri: str
    database: str

    def prepare(self) -> None:
        """Make the collection with streamq's own indexes: the floor pays for the same ones."""
        store = MongoStore.connect(self.uri, self.database)
        store.prepare()
        store.close()

    def drop(self) -> None:
        """Remove it again."""
        with MongoClient[dict[str, Any]](self.uri) as client:
            client.drop_database(self.database)


def collection(client: MongoClient[dict[str, Any]], place: Place, *, durable: bool) -> Collection[dict[str, Any]]:
    """Open the tasks with the write concern streamq uses: majority and journal for puts and settles, 1 for claims."""
    concern = WriteConcern(w="majority", j=True) if durable else WriteConcern(w=1)
    options: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
    return client[place.database].get_collection("tasks", options, write_concern=concern)
