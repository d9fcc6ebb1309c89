"""The server that a cursor is read from: whether it is the primary still, as far as the client knows just now.

The rest of a cursor is where its beginning was. While the client does not know that server (it was killed, it does not
answer, another was elected), the driver waits for it to come back, as long as for any server
(`serverSelectionTimeoutMS`), before it says that it is away: 10 s in which a change stream tells nothing, though
another primary may have been there for most of them. Only a read that is on its way as the server goes fails at once.
So it is asked before each read, at no cost: the client's description of the set is another object once it has changed.

A primary that is cut off from the others steps down, stays there and answers, as a secondary that hears of nothing: a
change stream on it would be silent until it is found again, while tasks are put at the next primary. So a cursor is
given up once the client knows that another server is primary.
"""

from __future__ import annotations

from typing import Any

import pymongo


class Source:
    """Of one cursor. Belongs to the thread that reads it."""

    def __init__(self, client: pymongo.MongoClient[Any]) -> None:
        self._client = client
        self._seen: object = None

    def is_away(self, address: Any) -> bool:
        """Say whether a read would wait for a server that is not there, or ask one that is primary no more and may not
        hear of what happens. False where the address is not known."""
        described = self._client.topology_description
        if described is self._seen:
            return False
        server = None if address is None else described.server_descriptions().get(tuple(address))
        if server is not None and not server.is_server_type_known:
            return True
        if server is not None and not server.is_writable and described.has_writable_server():
            return True
        self._seen = described
        return False
