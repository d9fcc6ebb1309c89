"""Another primary, with nothing killed."""

from __future__ import annotations

from random import Random

from tests.chaos.nemesis import Lane
from tests.chaos.scene import Scene


class StepDown:
    """`replSetStepDown`: the primary hands over and may not come back for a while."""

    name = "step-down"
    lane: Lane = "server"
    needs_network = False

    def hold_s(self, dice: Random) -> float:
        """How long it stays away."""
        return dice.uniform(1.0, 5.0)

    def start(self, scene: Scene, dice: Random) -> str:
        """Ask it to."""
        node = scene.primary()
        scene.command(node, {"replSetStepDown": 10, "secondaryCatchUpPeriodSecs": 5})
        return str(node)

    def stop(self, scene: Scene) -> None:
        """Wait for a primary."""
        scene.primary()


class ForcedElection:
    """`replSetStepUp`: a secondary calls an election while the primary is well."""

    name = "forced-election"
    lane: Lane = "server"
    needs_network = False

    def hold_s(self, dice: Random) -> float:
        """Nothing is held."""
        return dice.uniform(0.5, 3.0)

    def start(self, scene: Scene, dice: Random) -> str:
        """Let one of the secondaries call it."""
        node = dice.choice(scene.secondaries())
        scene.command(node, {"replSetStepUp": 1})
        return str(node)

    def stop(self, scene: Scene) -> None:
        """Wait for a primary."""
        scene.primary()
