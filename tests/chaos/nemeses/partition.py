"""The network between two parts drops all packets, in both directions or in one. Nothing is told: connections stay
open, and what is sent is sent again and again until it comes through."""

from __future__ import annotations

from random import Random
from typing import Final

from tests.chaos.nemesis import Lane
from tests.chaos.scene import Scene

LEAST_S: Final = 2.0
MOST_S: Final = 40.0


class Partition:
    """What all of them share."""

    name = ""
    lane: Lane = "server"
    needs_network = True

    def hold_s(self, dice: Random) -> float:
        """From shorter than any timeout to longer than all of them."""
        return dice.uniform(LEAST_S, MOST_S)

    def stop(self, scene: Scene) -> None:
        """Open all roads, and wait until the set is whole again."""
        assert scene.network is not None
        scene.network.open_all()
        for node in scene.server.nodes:
            scene.wait_following(node)
        scene.primary()


class PrimaryIsolated(Partition):
    """The primary from the secondaries; programs reach them all. For a moment there are two primaries."""

    name = "primary-isolated"

    def start(self, scene: Scene, dice: Random) -> str:
        """Close the roads between them."""
        assert scene.network is not None
        primary = scene.primary()
        for node in scene.secondaries():
            scene.network.close(primary.host, node.host)
            scene.network.close(node.host, primary.host)
        return str(primary)


class ClientsCutOff(Partition):
    """The programs from the primary, which has its secondaries: nobody is elected, nobody can write."""

    name = "clients-cut-off"

    def start(self, scene: Scene, dice: Random) -> str:
        """Close the roads between them."""
        assert scene.network is not None
        primary = scene.primary()
        scene.network.close(scene.network.clients, primary.host)
        scene.network.close(primary.host, scene.network.clients)
        return str(primary)


class OneWay(Partition):
    """One direction only, to or from the primary, of the secondaries or of the programs: one side hears the other and
    is not heard."""

    name = "one-way"

    def start(self, scene: Scene, dice: Random) -> str:
        """Close one direction."""
        assert scene.network is not None
        primary, secondaries = scene.primary(), scene.secondaries()
        others = dice.choice([[node.host for node in secondaries], [scene.network.clients]])
        outwards = dice.random() < 0.5
        for other in others:
            scene.network.close(*((primary.host, other) if outwards else (other, primary.host)))
        whom = "the programs" if others == [scene.network.clients] else "the secondaries"
        return f"{primary} {'is not heard by' if outwards else 'does not hear'} {whom}"
