"""Free ports on 127.0.0.1."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Collection

from streamq.embedded.command import HOST

# Below Linux's range for outgoing connections (32768 to 60999), so that no connection of anybody takes the port of
# a node that is down for a moment.
LOWEST, HIGHEST = 20_000, 32_000


def is_free(port: int) -> bool:
    """Say whether nobody listens on the port now. Raises OSError for one that this user may not bind."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as mongod does: TIME_WAIT does not count
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def free_port(taken: Collection[int] = ()) -> int:
    """Return a port that is free now and not in `taken`. Another program may still be quicker: be ready for that."""
    dice = random.SystemRandom()  # the program's own random state is not ours to move
    for _ in range(200):
        port = dice.randint(LOWEST, HIGHEST)
        if port not in taken and is_free(port):
            return port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
