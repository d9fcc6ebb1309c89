"""The embedded server: a replica set of one or a few mongods that ends with its program."""

from __future__ import annotations

import atexit
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from streamq.embedded import ports, replica_set
from streamq.embedded.binary import find_mongod
from streamq.embedded.command import SET_NAME, check_extra_args, check_parameters, mongod_command
from streamq.embedded.directory import Directory, make_temporary_directory, open_directory
from streamq.embedded.guard import Guard
from streamq.embedded.keyfile import login_by, require_key_file
from streamq.embedded.node import Node, PortTaken
from streamq.embedded.troubles import port_taken
from streamq.errors import OptionInvalid

FORM_S = 90.0
PORT_TRIALS = 5
LARGEST_SET = 7  # the most voting members MongoDB allows

Parameters = Mapping[str, str | int | bool]


class EmbeddedServer:
    """A running set of mongods. Made by `start`; ended by `stop`, by `with`, or with the program."""

    def __init__(self, nodes: Sequence[Node], directory: Directory, guard: Guard) -> None:
        self.nodes = list(nodes)
        self.path = directory.path
        self._temporary = directory.temporary
        self._guard = guard
        self._program_pid = os.getpid()
        atexit.register(self.stop)

    def __repr__(self) -> str:
        kind = "temporary" if self._temporary else f"path={str(self.path)!r}"
        return f"<EmbeddedServer {self.uri} {kind}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def uri(self) -> str:
        """The connection string: all members and the set's name. It holds no secret: without a `key_file` there is no
        access control, with one user and password are the caller's to add."""
        return f"mongodb://{','.join(node.address for node in self.nodes)}/?replicaSet={SET_NAME}"

    @property
    def minder_pid(self) -> int:
        """The process that minds the mongods."""
        return self._guard.pid

    def primary(self) -> Node | None:
        """Return the node that is primary now, or None during an election. Asks each node that runs."""
        for node in self.nodes:
            if node.pid is not None and replica_set.is_primary(node):
                return node
        return None

    def wait_healthy(self, timeout_s: float = FORM_S) -> None:
        """Wait until one node is primary and all others follow it; `EmbeddedError` if that takes longer."""
        replica_set.wait_healthy(self.nodes, timeout_s)

    def stop(self) -> None:
        """Stop the mongods and wait for it; remove the directory if it is a temporary one.

        Nothing happens the second time, nor in a forked child: the server is its parent's.
        """
        if os.getpid() != self._program_pid:
            return
        atexit.unregister(self.stop)
        self._guard.end()
        if self._temporary:
            shutil.rmtree(self.path, ignore_errors=True)  # a minder that was killed could not

    close = stop


def start(
    path: str | Path | None = None,
    *,
    nodes: int = 1,
    port: int | None = None,
    parameters: Parameters | None = None,
    extra_args: Sequence[str] = (),
    election_timeout_ms: int | None = None,
    cache_gb: float = 0.25,
    key_file: str | Path | None = None,
) -> EmbeddedServer:
    """Start a real mongod on 127.0.0.1 and return when it has a writable primary: about 0.7 s for one node.

    - `path`: where the data stays; None for a temporary directory that goes with the server.
    - `nodes`: members of the replica set, 1 to 7.
    - `port`: of the first node, the others follow upwards; None for the ports of the directory's last run if they are
      free, else any free ones.
    - `parameters`: server parameters, e.g. `{"enableTestCommands": 1}` for fail points.
    - `extra_args`: further arguments of mongod; one that is chosen here, e.g. `--oplogSize`, is replaced.
    - `election_timeout_ms`: how long the others miss a primary before they elect another (MongoDB's default: 10 s).
    - `cache_gb`: WiredTiger's cache per node, 0.25 at least.
    - `key_file`: turns access control on. A file of 6 to 1,024 base64 characters that only its owner may read (0600),
      by which the members know each other. The first user is yours to make: as `__system` with the key as password
      (`streamq.embedded.keyfile.login_by`), who may do everything.

    The server ends at `stop`, at the end of `with`, and with the program however that ends, SIGKILL included. It may be
    started from any thread; no signal handler is installed.

    Raises `OptionInvalid` for an argument that cannot be, and `EmbeddedError` when mongod cannot be found or run: its
    first line says what happened, the others what to do.
    """
    _check(nodes, port, election_timeout_ms, cache_gb, parameters or {}, extra_args)
    login: Mapping[str, Any] = {}
    if key_file is not None:
        login = login_by(require_key_file(Path(key_file)))
        extra_args = [*extra_args, "--keyFile", str(key_file)]
    mongod = find_mongod()
    directory = make_temporary_directory(nodes) if path is None else open_directory(Path(path), nodes)
    try:
        guard = Guard(directory)
    except BaseException:
        directory.discard()
        raise
    try:
        started = _start_nodes(
            directory,
            guard,
            mongod,
            port,
            cache_gb=cache_gb,
            parameters=parameters or {},
            extra_args=extra_args,
            login=login,
        )
        replica_set.form_set(started, election_timeout_ms, FORM_S)
        directory.remember_ports([node.port for node in started])
        return EmbeddedServer(started, directory, guard)
    except BaseException:
        guard.end()
        raise


def _start_nodes(
    directory: Directory,
    guard: Guard,
    mongod: Path,
    port: int | None,
    *,
    cache_gb: float,
    parameters: Parameters,
    extra_args: Sequence[str],
    login: Mapping[str, Any],
) -> list[Node]:
    started: list[Node] = []
    for number, wished in enumerate(_wished_ports(directory, port)):
        data = directory.data_path(number)

        def command(at_port: int, data: Path = data) -> list[str]:
            return mongod_command(
                mongod,
                data=data,
                port=at_port,
                cache_gb=cache_gb,
                temporary=directory.temporary,
                parameters=parameters,
                extra_args=extra_args,
            )

        node = Node(number, wished, command, data, directory.log_path(number), guard, login)
        _start_node(node, may_move=port is None, taken=[one.port for one in started])
        started.append(node)
    return started


def _wished_ports(directory: Directory, port: int | None) -> list[int]:
    """Return the ports to try: those asked for, else the last ones if all are free, else free ones.

    Raises `PortTaken` when one that was asked for is not free: sooner, and surer, than mongod would say it.
    """
    if port is not None:
        asked = list(range(port, port + directory.nodes))
        for one in asked:
            if not ports.is_free(one):
                raise PortTaken(port_taken(one))
        return asked
    last = directory.last_ports()
    if last and all(ports.is_free(one) for one in last):
        return last
    chosen: list[int] = []
    for _ in range(directory.nodes):
        chosen.append(ports.free_port(chosen))
    return chosen


def _start_node(node: Node, *, may_move: bool, taken: Sequence[int]) -> None:
    """Start a node, on another port if somebody was quicker on a port that nobody asked for."""
    for trial in range(PORT_TRIALS):
        try:
            node.start()
        except PortTaken:
            if not may_move or trial == PORT_TRIALS - 1:
                raise
            node.port = ports.free_port(taken)
        else:
            return


def _check(
    nodes: int,
    port: int | None,
    election_timeout_ms: int | None,
    cache_gb: float,
    parameters: Parameters,
    extra_args: Sequence[str],
) -> None:
    if not 1 <= nodes <= LARGEST_SET:
        raise OptionInvalid("nodes", nodes, f"1 to {LARGEST_SET}")
    if port is not None and not 1 <= port <= 65_536 - nodes:
        raise OptionInvalid("port", port, f"1 to {65_536 - nodes}, or None for a free one")
    if election_timeout_ms is not None and election_timeout_ms < 1:
        raise OptionInvalid("election_timeout_ms", election_timeout_ms, "1 or more, or None for MongoDB's default")
    if cache_gb < 0.25:
        raise OptionInvalid("cache_gb", cache_gb, "0.25 or more, the least mongod takes")
    check_parameters(parameters)
    check_extra_args(extra_args)
