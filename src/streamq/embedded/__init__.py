"""A real mongod of one's own, started and stopped with the program: for trying, tests and CI.

Here live finding a mongod, running it as a replica set of one node (or three) on 127.0.0.1, and ending it whatever
happens to the program. Blocking code: no trio, no queue. Nothing here is for production: no access control, little
cache, and the mongod that `streamq[embedded]` installs is third-party, SSPL and past its end of life.

    with streamq.embedded.start() as server:      # a temporary directory, removed at the end
        client = MongoClient(server.uri)

    server = streamq.embedded.start("data")       # a directory of yours, kept; ends with the program at the latest
"""

from __future__ import annotations

from streamq.embedded.node import Node
from streamq.embedded.server import EmbeddedServer, start
from streamq.errors import EmbeddedError

__all__ = ["EmbeddedError", "EmbeddedServer", "Node", "start"]
