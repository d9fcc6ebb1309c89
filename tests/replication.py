"""A primary that nobody follows: the way to a rollback. Needs `enableTestCommands`.

Stopping the followers' processes is none: what reached their sockets is applied when they go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from pymongo import MongoClient

from streamq.embedded import EmbeddedServer, Node

STOPS_IN_MS: Final = 30_000


def followers(server: EmbeddedServer) -> list[Node]:
    """Return all nodes but the primary."""
    primary = server.primary()
    return [node for node in server.nodes if node is not primary]


@contextmanager
def nothing_replicated(server: EmbeddedServer) -> Iterator[Callable[[], None]]:
    """Let no follower fetch anything; yield what lets them again."""
    stopped = followers(server)

    def switch(mode: str) -> None:
        for node in stopped:
            with _on(node) as client:
                client.admin.command("configureFailPoint", "stopReplProducer", mode=mode)

    switch("alwaysOn")
    try:
        for node in stopped:
            with _on(node) as client:
                client.admin.command("waitForFailPoint", "stopReplProducer", timesEntered=1, maxTimeMS=STOPS_IN_MS)
        yield lambda: switch("off")
    finally:
        switch("off")


def _on(node: Node) -> MongoClient[dict[str, Any]]:
    return MongoClient(node.host, node.port, directConnection=True)
