"""What a nemesis is: something that breaks a part of the scene, and lets it be again."""

from __future__ import annotations

from random import Random
from typing import Literal, Protocol

from tests.chaos.scene import Scene

Lane = Literal["server", "programs"]
"""What it breaks. Of each kind one is at work at a time; in a mixed run one of each."""


class Nemesis(Protocol):
    """One kind of fault. Made anew for each strike, so it may keep what it has to undo."""

    name: str
    lane: Lane
    needs_network: bool
    """Whether the set must be in a network of its own."""

    def hold_s(self, dice: Random) -> float:
        """Draw how long a strike lasts: from the end of `start` to `stop`."""

    def start(self, scene: Scene, dice: Random) -> str:
        """Break something; say what, for the log."""

    def stop(self, scene: Scene) -> None:
        """Let it be again. What a later strike or the end of the run needs is whole when this returns; an election may
        still be on."""
