"""Most of the set is gone, or follows no more."""

from __future__ import annotations

import time
from random import Random
from typing import Any, Final

from streamq.embedded import Node
from tests.chaos.nemesis import Lane
from tests.chaos.scene import Scene

ALONE_S: Final = 1.2
"""How long a primary that nobody follows goes on taking claims, at most."""


class MajorityLost:
    """Two of three nodes are killed, and started again: what is left takes no writes."""

    name = "majority-lost"
    lane: Lane = "server"
    needs_network = False

    def __init__(self) -> None:
        self._nodes: list[Node] = []

    def hold_s(self, dice: Random) -> float:
        """Below and above the limit of a call."""
        return dice.uniform(0.5, 14.0)

    def start(self, scene: Scene, dice: Random) -> str:
        """Kill two, the primary among them or not."""
        self._nodes = dice.sample(scene.server.nodes, 2)
        for node in self._nodes:
            node.kill()
        return ", ".join(map(str, self._nodes))

    def stop(self, scene: Scene) -> None:
        """Start them again, and wait until they are members."""
        for node in self._nodes:
            node.start()
        for node in self._nodes:
            scene.wait_following(node)


class RolledBack:
    """The secondaries fetch nothing for a while, and then the primary is killed: claims that it has acknowledged are
    lost, and what waited for a majority."""

    name = "rolled-back"
    lane: Lane = "server"
    needs_network = False

    def __init__(self) -> None:
        self._node: Node | None = None

    def hold_s(self, dice: Random) -> float:
        """Longer than an election: the others must have written before it comes back, else there is nothing to roll
        back."""
        return dice.uniform(3.0, 8.0)

    def start(self, scene: Scene, dice: Random) -> str:
        """Cut the secondaries off, wait, kill the primary."""
        self._node, others = scene.primary(), scene.secondaries()
        try:
            _fetch(scene, others, "alwaysOn")
            time.sleep(dice.uniform(0.2, ALONE_S))  # what is claimed meanwhile is what is lost
            self._node.kill()
        finally:
            _fetch(scene, others, "off")
        return str(self._node)

    def stop(self, scene: Scene) -> None:
        """Start it again; it rolls back what only it had."""
        assert self._node is not None
        self._node.start()
        scene.wait_following(self._node)


def _fetch(scene: Scene, nodes: list[Node], mode: str) -> None:
    command: dict[str, Any] = {"configureFailPoint": "stopReplProducer", "mode": mode}
    for node in nodes:
        scene.command(node, command)
