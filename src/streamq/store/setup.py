"""Getting a server ready: what it must be, how the client is configured, which indexes it needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import pymongo
from bson import CodecOptions
from bson.codec_options import DatetimeConversion
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import AutoReconnect, DuplicateKeyError, OperationFailure
from pymongo.operations import IndexModel

from streamq.core.indexes import Index
from streamq.errors import InsecureConnection, NotAReplicaSet, ServerTooOld, StoreError, StreamQError, UsageError
from streamq.secret import Secret, tells
from streamq.store.faults import STANDALONE_HINT, reading
from streamq.store.succession import Succession
from streamq.store.uri import require_values, said_of, warn_of_risks

Document = dict[str, Any]

WIRE_VERSION_6_0: Final = 17

CLIENT_DEFAULTS: Final[dict[str, Any]] = {
    "appname": "streamq",
    # A server that does not answer is given up after connectTimeoutMS and up to a heartbeat more, 5 to 10 s, where no
    # other is elected; where one is, `Succession` is sooner, so that shorter ones, by which a slow server or link is
    # taken for dead, gain nothing (docs/reliability.md has the figures).
    "heartbeatFrequencyMS": 5_000,
    "connectTimeoutMS": 5_000,
    "serverSelectionTimeoutMS": 10_000,
}

CODEC: Final[CodecOptions[Document]] = CodecOptions(
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO, unicode_decode_error_handler="replace"
)
"""What other producers may store and Python cannot hold must not stop the reading of all else: a date outside of
Python's years becomes a `DatetimeMS`, invalid UTF-8 the replacement character. Other values are read as before."""

INDEX_CONFLICTS: Final = frozenset({85, 86})
"""IndexOptionsConflict, IndexKeySpecsConflict."""


def connect(uri: str) -> pymongo.MongoClient[Document]:
    """Make a client with streamq's defaults; what the URI says itself wins. Nothing is sent yet."""
    uri = Secret(uri)
    try:
        return _client(uri)
    except StreamQError as error:
        if not tells(str(error), uri):
            raise
    # Outside of the handler: what the driver said is no part of this error, as its cause or context neither.
    raise UsageError(
        "cannot connect: the URI is not valid: in user and password all but letters, digits and -._~ must be "
        "percent-encoded (urllib.parse.quote_plus)"
    )


def _client(uri: str) -> pymongo.MongoClient[Document]:
    try:
        require_values(uri)
        said = {name.lower() for name, _ in said_of(uri)}
        defaults = {name: value for name, value in CLIENT_DEFAULTS.items() if name.lower() not in said}
        succession = Succession()
        with reading("connect"):
            client: pymongo.MongoClient[Document] = pymongo.MongoClient(uri, event_listeners=[succession], **defaults)
        try:
            warn_of_risks(uri)
        except InsecureConnection:  # of who has made errors of these warnings
            client.close()
            raise
        succession.attend(client)
        return client
    except ValueError as error:  # ports and IPv6 addresses
        raise UsageError(f"cannot connect: the URI is not valid: {error}") from error
    except OSError as error:  # files of certificates, which are read at once
        raise UsageError(f"cannot connect: a file that the URI names for TLS cannot be used: {error}") from error


def check_server(database: Database[Document]) -> None:
    """Refuse a server that cannot carry a queue, saying what to do about it."""
    with reading("connect"):
        hello = database.client.admin.command("hello")
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        if hello.get("isreplicaset"):
            raise NotAReplicaSet("the server waits for its replica set to be initiated: run rs.initiate() in mongosh")
        raise NotAReplicaSet(STANDALONE_HINT)
    if hello.get("maxWireVersion", 0) < WIRE_VERSION_6_0:
        raise ServerTooOld("streamq needs MongoDB 6.0 or later; the server's wire version is older")


def make_indexes(collection: Collection[Document], indexes: Sequence[Index], deadline: float) -> list[str]:
    """Create those that are missing; name the unique ones that what is stored does not allow: keys that are there
    twice, since the collection was without the index for a while. `createIndexes` is not retried by the driver: a
    step-down while it runs is waited out here, until `deadline` by the monotonic clock."""
    while True:
        try:
            with reading("create the indexes"):
                return _create(collection, indexes)
        except StoreError as error:
            if not isinstance(error.__cause__, AutoReconnect) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)  # an election takes longer; each try waits for a primary by itself


def _create(collection: Collection[Document], indexes: Sequence[Index]) -> list[str]:
    try:
        collection.create_indexes([_model(index) for index in indexes])
    except DuplicateKeyError:
        if len(indexes) == 1:
            return [indexes[0].name]
        return [name for index in indexes for name in _create(collection, [index])]  # the others harm nobody
    except OperationFailure as error:
        if error.code not in INDEX_CONFLICTS:
            raise
        said = (error.details or {}).get("errmsg")
        raise StoreError(
            f"an index of {collection.full_name} differs from what streamq needs: {said}. "
            "Drop the index named there; streamq makes it anew at the next start"
        ) from error
    return []


def _model(index: Index) -> IndexModel:
    more: dict[str, Any] = {} if index.expire_after_s is None else {"expireAfterSeconds": index.expire_after_s}
    if index.unique:
        more["unique"] = True
    return IndexModel(list(index.keys), name=index.name, partialFilterExpression=index.partial, **more)
