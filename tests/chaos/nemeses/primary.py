"""The primary is gone, or does not answer."""

from __future__ import annotations

from random import Random

from streamq.embedded import Node
from tests.chaos.nemesis import Lane
from tests.chaos.scene import Scene


class PrimaryKilled:
    """SIGKILL, and a restart on the same data."""

    name = "primary-killed"
    lane: Lane = "server"
    needs_network = False

    def __init__(self) -> None:
        self._node: Node | None = None

    def hold_s(self, dice: Random) -> float:
        """Below and above what an election takes."""
        return dice.uniform(0.5, 6.0)

    def start(self, scene: Scene, dice: Random) -> str:
        """Kill it."""
        self._node = scene.primary()
        self._node.kill()
        return str(self._node)

    def stop(self, scene: Scene) -> None:
        """Start it again, and wait until it is a member."""
        assert self._node is not None
        self._node.start()
        scene.wait_following(self._node)


class PrimaryFrozen:
    """SIGSTOP, and SIGCONT when another may have been elected: connections stay open, and nothing answers."""

    name = "primary-frozen"
    lane: Lane = "server"
    needs_network = False

    def __init__(self) -> None:
        self._node: Node | None = None

    def hold_s(self, dice: Random) -> float:
        """As long as people have seen it: a paused machine, a disk that hangs."""
        return dice.uniform(5.0, 30.0)

    def start(self, scene: Scene, dice: Random) -> str:
        """Freeze it."""
        self._node = scene.primary()
        self._node.suspend()
        return str(self._node)

    def stop(self, scene: Scene) -> None:
        """Let it go on, and wait until it is a member: it finds that it is primary no more."""
        assert self._node is not None
        self._node.resume()
        scene.wait_following(self._node)
