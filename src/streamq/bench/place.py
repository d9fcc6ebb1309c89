"""Where a run takes place: a server that is ours to burden, and a database of its own."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from bson.codec_options import CodecOptions
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from streamq import embedded
from streamq.bench.process import name_of
from streamq.core.notice import WakeBy
from streamq.errors import StoreUnavailable, UsageError
from streamq.store.mongo import MongoStore

QUEUE: Final = "bench"
HANDLER: Final = "noop"
PREFIX: Final = "streamq_bench_"

Client = MongoClient[dict[str, Any]]
Tasks = Collection[dict[str, Any]]


class Place(msgspec.Struct, frozen=True):
    """A server, a database and how streamq's puts wake there. Plain values: it travels to the processes of a run."""

    uri: str
    database: str
    wake: WakeBy = "stream"

    def prepare(self) -> None:
        """Make the collection with streamq's own indexes: the floor pays for the same ones."""
        store = MongoStore.connect(self.uri, self.database)
        try:
            store.prepare()
        finally:
            store.close()

    def drop(self) -> None:
        """Remove it again."""
        with Client(self.uri) as client:
            client.drop_database(self.database)


def write_conflicts(uri: str) -> int:
    """How often the server has met a write conflict since it began, in all its databases."""
    return int(_status(uri)["metrics"]["operation"]["writeConflicts"])


def server_counts(uri: str) -> tuple[dict[str, int], int | None]:
    """How many operations of each kind the server was asked for since it began, and its process id; None: it is not a
    process of this machine."""
    status = _status(uri)
    counts = {name: int(count) for name, count in status["opcounters"].items() if isinstance(count, int)}
    return counts, int(status["pid"]) if _runs_here(status) else None


def _runs_here(status: Mapping[str, Any]) -> bool:
    """Say whether a server is a process of this machine, by what it says of itself: one behind a tunnel, or in a
    container, has a process id that is another's here."""
    name = str(status["host"]).rpartition(":")[0] or str(status["host"])
    return name == socket.gethostname() and name_of(int(status["pid"])) == Path(status["process"]).name


def _status(uri: str) -> dict[str, Any]:
    with Client(uri) as client:
        return client.admin.command("serverStatus")


@contextmanager
def made(uri: str, wake: WakeBy = "stream") -> Iterator[Place]:
    """Make a database of its own, with streamq's indexes; drop it after."""
    one = Place(uri, PREFIX + os.urandom(6).hex(), wake)
    try:
        one.prepare()
        yield one
    finally:
        one.drop()


@contextmanager
def server(uri: str | None, *, own: bool, nodes: int = 1) -> Iterator[str]:
    """Yield the URI to measure on: the one given, if it is on this machine or said to be one's `own`; else that of an
    embedded server of so many nodes. Raises `UsageError`."""
    if uri is not None and nodes != 1:
        raise UsageError("--nodes is of the embedded server: how many a server of yours has is said there")
    if uri is None:
        with embedded.start(nodes=nodes) as started:
            yield started.uri
        return
    if not own:
        require_loopback(uri)
    yield uri


def require_loopback(uri: str) -> None:
    """Refuse a server on another machine, by what the URI names and by what its replica set says of itself.

    A bench takes all that the server can give, and fills its disk: nothing to do to others by mistake.
    """
    try:
        named = [host for host, _ in parse_uri(uri)["nodelist"]]
        _require_all_here(named)
        with Client(uri, serverSelectionTimeoutMS=5_000) as client:
            hello = client.admin.command("hello")
    except PyMongoError as error:
        raise StoreUnavailable(f"cannot reach the server to measure on: {str(error)[:200]}") from error
    _require_all_here(str(one).rpartition(":")[0] for one in hello.get("hosts", ()))


def _require_all_here(hosts: Iterable[str]) -> None:
    for host in hosts:
        if not _is_here(host):
            raise UsageError(
                f"{host} is not this machine: a bench burdens its server as much as it can. "
                "If nobody else needs it, say --i-own-this-server"
            )


def _is_here(host: str) -> bool:
    if host.startswith("/"):
        return True  # a socket in the file system
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(one).partition("%")[0]).is_loopback for one in found)


def collection(client: Client, place: Place, *, durable: bool) -> Tasks:
    """Open the tasks with the write concern streamq uses: majority and journal for puts and settles, 1 for claims."""
    concern = WriteConcern(w="majority", j=True) if durable else WriteConcern(w=1)
    options: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
    return client[place.database].get_collection("tasks", options, write_concern=concern)
