"""The set of a run, each node at a place of its own in a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from streamq.embedded import EmbeddedServer, Node, replica_set
from streamq.embedded.binary import find_mongod
from streamq.embedded.command import HOST, mongod_command
from streamq.embedded.directory import make_temporary_directory
from streamq.embedded.guard import Guard
from tests.chaos.network import NODES, Network

PORT: Final = 27_017
"""Each has its place for itself."""

CACHE_GB: Final = 0.25
FORM_S: Final = 90.0


def start_apart(
    network: Network,
    *,
    election_timeout_ms: int,
    parameters: Mapping[str, str | int | bool],
    extra_args: Sequence[str],
) -> EmbeddedServer:
    """Start it, as `embedded.start` starts one on loopback; it ends in the same ways."""
    mongod = find_mongod()
    directory = make_temporary_directory(NODES)
    try:
        guard = Guard(directory)
    except BaseException:
        directory.discard()
        raise
    try:
        nodes = []
        for number in range(NODES):
            data = directory.data_path(number)
            command = _command(network, number, mongod, data, parameters, extra_args)
            nodes.append(
                Node(number, PORT, command, data, directory.log_path(number), guard, host=network.node(number))
            )
            nodes[-1].start()
        replica_set.form_set(nodes, election_timeout_ms, FORM_S)
        return EmbeddedServer(nodes, directory, guard)
    except BaseException:
        guard.end()
        shutil.rmtree(directory.path, ignore_errors=True)
        raise


def _command(
    network: Network,
    number: int,
    mongod: Path,
    data: Path,
    parameters: Mapping[str, str | int | bool],
    extra_args: Sequence[str],
) -> Callable[[int], list[str]]:
    def command(port: int) -> list[str]:
        argv = mongod_command(
            mongod,
            data=data,
            port=port,
            cache_gb=CACHE_GB,
            temporary=True,
            parameters=parameters,
            extra_args=extra_args,
        )
        return [*network.into_node(number), *(network.node(number) if arg == HOST else arg for arg in argv)]

    return command
