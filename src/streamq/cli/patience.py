"""What is said to whoever waits for a server that does not answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pymongo

from streamq.cli.screen import complain
from streamq.store.faults import short

SILENT_S: Final = 2.0
"""How long a command says nothing: longer than most elections take, shorter than a person takes to wonder."""


@contextmanager
def patience(client: pymongo.MongoClient[Any], silent_s: float = SILENT_S) -> Iterator[None]:
    """Complain, once, while the block still waits for a primary after `silent_s` seconds; the block itself goes on."""
    timer = threading.Timer(silent_s, _complain, (client,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _complain(client: pymongo.MongoClient[Any]) -> None:
    described = client.topology_description
    if described.has_writable_server():
        return
    servers = described.server_descriptions()
    heard = [
        f"{host}:{port}: {'is no primary' if one.is_server_type_known else 'has not answered'}"
        if one.error is None
        else short(one.error)
        for (host, port), one in servers.items()
    ]
    complain(f"still waiting for a primary ({'; '.join(heard)})")
