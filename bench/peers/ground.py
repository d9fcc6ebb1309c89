"""What a round stands on: the servers, and in each a place of its own for every round."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from pymongo import MongoClient

import streamq.embedded
from bench.peers.contender import Contender
from bench.peers.process import Program
from streamq.bench.place import require_loopback
from streamq.embedded.ports import free_port

START_S = 30.0


class ServerMissing(Exception):
    """A server is not installed."""


class Ground(Protocol):
    """A server of the run."""

    @property
    def version(self) -> str:
        """What it is."""

    @property
    def durability(self) -> str:
        """How safe what it acknowledged is."""

    @property
    def pid(self) -> int | None:
        """Its process, where it is the run's own."""

    def place(self, contender: Contender) -> AbstractContextManager[dict[str, str]]:
        """Make an empty place with the contender's schema; yield how to reach it; remove it."""

    def know(self, place: dict[str, str]) -> None:
        """Let the server learn what a place holds, as it would by itself in time."""


# --- MongoDB ---------------------------------------------------------------------------------------------------------


class Mongo:
    """A replica set: the one at a URI, or an embedded one."""

    durability = "replica set of one, journal; majority where the queue does not say else"

    def __init__(self, uri: str, pid: int | None) -> None:
        self.pid = pid
        self.uri = uri
        with MongoClient[dict[str, Any]](uri) as client:
            self.version = f"mongod {client.server_info()['version']}"

    @contextmanager
    def place(self, contender: Contender) -> Iterator[dict[str, str]]:
        """Name a database; let the contender make its indexes, unless it does so as it connects."""
        name = f"peers_{os.urandom(4).hex()}"
        try:
            if contender.prepares:
                with Program(contender, role="prepare", uri=self.uri, name=name) as program:
                    program.wait_done()
            yield {"uri": self.uri, "name": name}
        finally:
            with MongoClient[dict[str, Any]](self.uri) as client:
                client.drop_database(name)

    def know(self, place: dict[str, str]) -> None:
        """It keeps no statistics."""


@contextmanager
def mongo(uri: str | None) -> Iterator[Mongo]:
    """Yield the server to measure on. Raises `UsageError` for one on another machine."""
    if uri is not None:
        require_loopback(uri)
        yield Mongo(uri, None)
        return
    with streamq.embedded.start() as own:
        yield Mongo(own.uri, own.nodes[0].pid)


# --- servers of the run's own ----------------------------------------------------------------------------------------


@contextmanager
def kept(directory: Path, stop_signal: str, user: str, argv: list[str]) -> Iterator[int]:
    """Run a server behind a keeper (keep.py) and yield its pid."""
    keeper = subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-S",
            str(Path(__file__).with_name("keep.py")),
            str(directory),
            stop_signal,
            user,
            *argv,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        yield int(keeper.stdout.readline())
    finally:
        keeper.stdin.close()
        keeper.wait()
        keeper.stdout.close()


def _told(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _wait_up(argv: list[str], directory: Path) -> None:
    until = time.monotonic() + START_S
    while subprocess.run(argv, capture_output=True, check=False).returncode:
        if not directory.exists():  # its keeper said why
            raise RuntimeError(f"{argv[0]} got no answer: the server ended")
        if time.monotonic() > until:
            raise RuntimeError(f"{argv[0]} got no answer within {START_S:g} s")
        time.sleep(0.05)


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


class Postgres:
    """A server with what `initdb` gives: fsync and synchronous_commit on."""

    durability = "fsync on, synchronous_commit on"

    def __init__(self, port: int, pid: int, psql: str) -> None:
        self.pid = pid
        self._psql = [psql, "-XAtq", "-h", "127.0.0.1", "-p", str(port), "-U", "bench", "-v", "ON_ERROR_STOP=1"]
        self._base = f"postgresql://bench@127.0.0.1:{port}"
        self._prepared: set[str] = set()
        self.version = f"PostgreSQL {self._do('postgres', 'show server_version').split()[0]}"

    @contextmanager
    def place(self, contender: Contender) -> Iterator[dict[str, str]]:
        """Copy a database with the contender's schema."""
        template = f"schema_{contender.program}"
        if template not in self._prepared:
            self._do("postgres", f"create database {template}")
            with Program(contender, role="prepare", uri=f"{self._base}/{template}") as program:
                program.wait_done()
            self._prepared.add(template)
        name = f"peers_{os.urandom(4).hex()}"
        self._do("postgres", f"create database {name} template {template}")
        try:
            yield {"uri": f"{self._base}/{name}", "name": name}
        finally:
            self._do("postgres", f"drop database {name} with (force)")

    def know(self, place: dict[str, str]) -> None:
        """Let the planner know of tables that were just filled."""
        self._do(place["name"], "vacuum analyze")

    def _do(self, database: str, statement: str) -> str:
        return _told([*self._psql, "-d", database, "-c", statement])


@contextmanager
def postgres() -> Iterator[Ground]:
    """Start a server in a directory of its own, as `postgres` if this is root: it refuses to be root."""
    home = _postgres_home()
    user = "postgres" if os.geteuid() == 0 else ""
    directory = Path(tempfile.mkdtemp(prefix="streamq-peers-pg-"))
    try:
        if user:
            entry = pwd.getpwnam(user)
            os.chown(directory, entry.pw_uid, entry.pw_gid)
        data, port = str(directory / "data"), free_port()
        made = [str(home / "initdb"), "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
        argv = [str(home / "postgres"), "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", ""]
        both = ["sh", "-c", f"{shlex.join(made)} && exec {shlex.join(argv)}"]
        with kept(directory, "SIGINT", user, both) as pid:
            _wait_up([str(home / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)], directory)
            yield Postgres(port, pid, str(home / "psql"))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _postgres_home() -> Path:
    """Find the newest installed server: Debian's lie beside PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[4]))
    named = shutil.which("postgres")
    if not found and named is None:
        raise ServerMissing("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    home = found[-1].parent if found else Path(str(named)).resolve().parent
    if os.geteuid() == 0 and not any(entry.pw_name == "postgres" for entry in pwd.getpwall()):
        raise ServerMissing("PostgreSQL does not run as root, and there is no user postgres")
    return home


# --- Redis -----------------------------------------------------------------------------------------------------------


class Redis:
    """A server with an append-only file, synced every second."""

    durability = "appendonly, appendfsync everysec: up to 1 s of what was acknowledged may be lost"

    def __init__(self, port: int, pid: int) -> None:
        self.pid = pid
        self._cli = ["redis-cli", "-h", "127.0.0.1", "-p", str(port)]
        self._uri = f"redis://127.0.0.1:{port}/0"
        said = dict(line.split(":", 1) for line in _told([*self._cli, "info", "server"]).splitlines() if ":" in line)
        self.version = f"Redis {said['redis_version'].strip()}"

    @contextmanager
    def place(self, contender: Contender) -> Iterator[dict[str, str]]:
        """Empty the server."""
        _told([*self._cli, "flushall"])
        try:
            yield {"uri": self._uri, "name": ""}
        finally:
            _told([*self._cli, "flushall"])

    def know(self, place: dict[str, str]) -> None:
        """It keeps no statistics."""


@contextmanager
def redis() -> Iterator[Ground]:
    """Start a server in a directory of its own."""
    if shutil.which("redis-server") is None or shutil.which("redis-cli") is None:
        raise ServerMissing("Redis is not installed (Debian: apt-get install redis-server)")
    directory = Path(tempfile.mkdtemp(prefix="streamq-peers-redis-"))
    try:
        port = free_port()
        argv = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory), "--save", ""]
        argv += ["--appendonly", "yes", "--appendfsync", "everysec", "--daemonize", "no"]
        with kept(directory, "SIGTERM", "", argv) as pid:
            _wait_up(["redis-cli", "-h", "127.0.0.1", "-p", str(port), "ping"], directory)
            yield Redis(port, pid)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
