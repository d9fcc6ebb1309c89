"""Nodes whose wall clocks are wrong. Each is right or wrong for as long as it runs: a mongod whose clock steps while it
runs is not what is tested here, and misbehaves in ways of its own. Their monotonic clocks are right."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from unittest.mock import patch

from streamq.embedded import EmbeddedError, Node
from streamq.embedded.binary import find_mongod
from streamq.embedded.replica_set import connected
from tests import clocks

ROUNDING_S: Final = 10.0
"""An answer may take as long on a busy machine."""

WRAPPER: Final = Path(__file__).with_name("mongod_by_clock.sh")


@contextmanager
def clocked() -> Iterator[None]:
    """Let the sets that are started in the body have nodes whose clocks can be set, where there is libfaketime."""
    library = clocks.library()
    if library is None:
        yield
        return
    own = {
        "STREAMQ_CLOCKED_MONGOD": str(find_mongod()),
        "STREAMQ_FAKETIME": str(library),
        "STREAMQ_MONGOD": str(WRAPPER),
    }
    with patch.dict(os.environ, own):
        yield


def restart(node: Node, ahead_s: int = 0) -> None:
    """Restart a node of such a set; its clock is so much ahead from then on, or behind, or right."""
    pid = node.pid
    end(node)
    if pid is not None:
        clocks.forget(pid)
    clock = node.data.parent / "clock"
    if ahead_s:
        clock.write_text(f"{ahead_s:+d}s")
    else:
        clock.unlink(missing_ok=True)
    node.start()
    assert abs(ahead_of_ours_s(node) - ahead_s) < ROUNDING_S, "the clock is not as wrong as it should be"


def put_right(node: Node) -> None:
    """Restart a node whose clock is wrong; leave others alone."""
    if (node.data.parent / "clock").exists():
        restart(node)


def ahead_of_ours_s(node: Node) -> float:
    """Ask a node what time it is."""
    with connected(node) as client:
        told: datetime = client.admin.command("hello")["localTime"]
    return (told.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()


def end(node: Node) -> None:
    """End it, as an init system does: one that rolls back does not hear SIGTERM before it is through (97 s seen)."""
    try:
        node.terminate()
    except EmbeddedError:
        node.kill()
