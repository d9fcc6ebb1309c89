"""`streamq dev`: a MongoDB of one's own until Ctrl-C."""

from __future__ import annotations

import os
import select
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from streamq.cli.safe import plain
from streamq.cli.screen import say
from streamq.cli.stopping import stopping
from streamq.errors import EmbeddedError

if TYPE_CHECKING:
    from streamq.embedded import EmbeddedServer

LOOK_S = 1.0
"""How late a mongod that died is noticed. Chosen freely."""


def dev(
    *,
    path: Annotated[Path | None, Parameter(help="Keep the data here; default: a temporary directory.")] = None,
    port: Annotated[int | None, Parameter(help="Port of the first node; default: any free one.")] = None,
    nodes: Annotated[int, Parameter(help="Members of the replica set.")] = 1,
    quiet: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Print the connection string and nothing else.")
    ] = False,
) -> None:
    """Run a real MongoDB on 127.0.0.1 for development; Ctrl-C ends it.

    The last line on stdout is its connection string.
    """
    from streamq import embedded  # not for the sake of every other command

    heard, told = os.pipe()  # what a signal handler may safely write to, and a wait that it surely ends
    with stopping(lambda: os.write(told, b".")) as state:
        if not quiet:
            _mention("Starting MongoDB …")
        server = embedded.start(path, port=port, nodes=nodes)  # a signal meanwhile is acted upon right after
        try:
            if state.by is None:
                _announce(server, path, quiet=quiet)
            _wait_signal(heard, server)
        finally:
            if not quiet:
                _mention("Stopping MongoDB …")
            server.stop()


def _announce(server: EmbeddedServer, path: Path | None, *, quiet: bool) -> None:
    if not quiet:
        kept = "in a temporary directory" if path is None else f"in {plain(str(server.path))}"
        say(f"MongoDB for development, replica set of {len(server.nodes)}, data {kept}. Ctrl-C ends it. To use it:")
        say("")
        say(f"    export STREAMQ_URI={shlex.quote(server.uri)}")
        say("    streamq worker shop:app")
        say("")
    say(server.uri)


def _wait_signal(heard: int, server: EmbeddedServer) -> None:
    while not select.select([heard], [], [], LOOK_S)[0]:
        ended = [node.number for node in server.nodes if node.pid is None]
        if ended:
            raise EmbeddedError(f"mongod ended by itself or was killed (node {ended[0]}); its log: {_log(server)}")


def _log(server: EmbeddedServer) -> str:
    return str(server.nodes[0].log)


def _mention(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
