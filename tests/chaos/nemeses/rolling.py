"""All nodes are restarted, one after the other, as at an upgrade."""

from __future__ import annotations

from random import Random

from tests.chaos.clocked import end
from tests.chaos.nemesis import Lane
from tests.chaos.scene import Scene


class RollingRestart:
    """SIGTERM and a start of each node, the primary of the moment last."""

    name = "rolling-restart"
    lane: Lane = "server"
    needs_network = False

    def hold_s(self, dice: Random) -> float:
        """The restarts are the strike."""
        return 0.0

    def start(self, scene: Scene, dice: Random) -> str:
        """Restart them, when all are well: nobody upgrades a set with a member that is still coming back."""
        for node in scene.server.nodes:
            scene.wait_following(node)
        primary = scene.primary()
        order = [node for node in scene.server.nodes if node is not primary] + [primary]
        for node in order:
            end(node)
            node.start()
            scene.wait_following(node)
        return ", ".join(map(str, order))

    def stop(self, scene: Scene) -> None:
        """Wait for a primary."""
        scene.primary()
