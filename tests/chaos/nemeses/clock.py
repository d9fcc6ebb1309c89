"""The primary's wall clock is wrong, by which leases and delays are measured."""

from __future__ import annotations

from random import Random
from typing import ClassVar, Final

from streamq.embedded import Node
from tests.chaos.clocked import restart
from tests.chaos.nemesis import Lane
from tests.chaos.scene import Scene

WRONG_S: Final = 60
"""How wrong it is: far more than a lease lasts."""


class ClockBehind:
    """A node whose clock is a minute behind becomes primary, and stays it for a while."""

    name = "clock-behind"
    lane: Lane = "server"
    needs_network = False
    offsets_s: ClassVar[tuple[int, ...]] = (-WRONG_S,)

    def __init__(self) -> None:
        self._wrong: list[Node] = []

    def hold_s(self, dice: Random) -> float:
        """Shorter and longer than a lease."""
        return dice.uniform(4.0, 12.0)

    def start(self, scene: Scene, dice: Random) -> str:
        """Restart followers with a wrong clock, let the first of them become primary."""
        for node in scene.server.nodes:
            scene.wait_following(node)
        offsets_s = dice.sample(self.offsets_s, len(self.offsets_s))
        self._wrong = dice.sample(scene.secondaries(), len(offsets_s))
        for node, offset_s in zip(self._wrong, offsets_s, strict=True):
            restart(node, offset_s)
            scene.wait_following(node)
        scene.elect(self._wrong[0])
        return ", then ".join(
            f"{node} ({offset_s:+d} s)" for node, offset_s in zip(self._wrong, offsets_s, strict=True)
        )

    def stop(self, scene: Scene) -> None:
        """Let the others of them become primary in turn; then restart them with the right time."""
        for node in self._wrong[1:]:
            scene.elect(node)
        for node in reversed(self._wrong):
            restart(node)
            scene.wait_following(node)


class ClocksApart(ClockBehind):
    """Two followers have clocks that are two minutes apart, one a minute ahead and one a minute behind: each becomes
    primary, in an order of chance."""

    name = "clocks-apart"
    offsets_s = (WRONG_S, -WRONG_S)
