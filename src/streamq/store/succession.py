"""Another primary takes over: who still waits for the old one is told.

A primary that does not answer (a frozen machine, a network that drops packets) leaves every call in flight waiting, and
the driver frees them only when its monitor has heard nothing from that server for `connectTimeoutMS` and a heartbeat
more. By then the others have long elected another, and the monitor of that one has said so at once:

    frozen          elected                     connectTimeoutMS + heartbeat after its last word
    ──┬────────────────┬──────────────────────────────────────┬─────────▶
      │ a call waits   │ the driver sends new calls there,    │ and only now
      │                │ and lets the old ones wait           │ ends these

So the word of the new primary is taken for both: what waits for the one before is ended here as the driver would end
it later, as a network error whose outcome is unknown; what can be sent again is sent again by the driver, the rest is
read back by streamq. Nothing is guessed by the clock: a slow server that is still primary is waited for as before.

That the one before has said itself that it is primary no more changes nothing. Its writes it has ended then; but one
that is cut off from the others hears of nothing, and a read of a change stream waits there for as long as it may.

The driver has no public way to end the calls on one server. The way here is its own, `Pool.reset`; where a version of
it is built otherwise, calls wait for the monitor as they did.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any, Final

import pymongo
from bson import ObjectId
from pymongo.monitoring import (
    ServerHeartbeatFailedEvent,
    ServerHeartbeatListener,
    ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
)

Address = tuple[str, int | None]

KNOWN_S: Final = 1.0
LOOK_S: Final = 0.002
"""How long at most, and how often, is looked whether the client knows of a new primary: it does within a millisecond,
or another word has come meanwhile."""


class Succession(ServerHeartbeatListener):
    """Of one client, which is told to it after it was made. Called by the threads of the driver's monitors."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: weakref.ref[pymongo.MongoClient[Any]] | None = None
        self._primary: Address | None = None
        self._elected: ObjectId | None = None

    def attend(self, client: pymongo.MongoClient[Any]) -> None:
        """Say whose it is."""
        self._client = weakref.ref(client)

    def started(self, event: ServerHeartbeatStartedEvent) -> None:
        """Nothing to do."""

    def failed(self, event: ServerHeartbeatFailedEvent) -> None:
        """Nothing to do: the driver does it."""

    def succeeded(self, event: ServerHeartbeatSucceededEvent) -> None:
        """Take in what a server says of itself."""
        elected = event.reply.election_id if event.reply.is_writable else None
        before = self._succeed(event.connection_id, elected)
        if before is not None:
            self._dismiss_when_known(before, event.connection_id)

    def _succeed(self, address: Address, elected: ObjectId | None) -> Address | None:
        """Return the primary that is none any more by this one's word. Elections are numbered: one that was frozen and
        still believes to be primary says a lower number than the one after it."""
        with self._lock:
            if elected is None or (self._elected is not None and elected <= self._elected):
                return None
            before, self._primary, self._elected = self._primary, address, elected
            return before if before != address else None

    def _dismiss_when_known(self, before: Address, elected: Address) -> None:
        """End the calls at the one before once the client sends others to the new one. It learns of it a moment after
        this word: a call that ends sooner is sent to the one before again, where nobody would end it any more."""
        client = None if self._client is None else self._client()
        if client is None or _knows(client, elected):
            self.dismiss(before)
            return

        def wait() -> None:
            until = time.monotonic() + KNOWN_S
            while not _knows(client, elected) and time.monotonic() < until:
                time.sleep(LOOK_S)
            self.dismiss(before)

        threading.Thread(target=wait, name="streamq-succession", daemon=True).start()

    def dismiss(self, address: Address) -> None:
        """End the calls that wait for a server."""
        client = None if self._client is None else self._client()
        if client is None:
            return
        try:
            server = client._topology._servers.get(address)
            if server is not None:
                server.pool.reset(interrupt_connections=True)
        except (AttributeError, TypeError):
            return


def _knows(client: pymongo.MongoClient[Any], primary: Address) -> bool:
    """Say whether a client takes a server for primary."""
    server = client.topology_description.server_descriptions().get(primary)
    return server is not None and server.server_type_name == "RSPrimary"
