"""A worker is gone, or goes on when its tasks are others' already."""

from __future__ import annotations

from random import Random

from tests.chaos.actor import Actor
from tests.chaos.nemesis import Lane
from tests.chaos.orders import LONG_LEASE_S
from tests.chaos.scene import Scene

PAST_LEASE_S = 1.5
"""How much longer than the lease it is frozen: others have its tasks by then, and are at work on some."""


class WorkerKilled:
    """SIGKILL; another takes its place."""

    name = "worker-killed"
    lane: Lane = "programs"
    needs_network = False

    def __init__(self) -> None:
        self._victim: Actor | None = None

    def hold_s(self, dice: Random) -> float:
        """How long its place is empty."""
        return dice.uniform(0.0, 3.0)

    def start(self, scene: Scene, dice: Random) -> str:
        """Kill one."""
        self._victim = dice.choice(scene.of("worker", "hand"))
        self._victim.kill()
        return self._victim.name

    def stop(self, scene: Scene) -> None:
        """Hire another."""
        assert self._victim is not None
        scene.hire(self._victim.role, wait=False)


class WorkerFrozen:
    """SIGSTOP past its lease, then SIGCONT: it does not know that time has passed."""

    name = "worker-frozen"
    lane: Lane = "programs"
    needs_network = False

    def __init__(self) -> None:
        self._victim: Actor | None = None

    def hold_s(self, dice: Random) -> float:
        """A little longer than the lease of a long run's tasks."""
        return dice.uniform(LONG_LEASE_S, LONG_LEASE_S + PAST_LEASE_S)

    def start(self, scene: Scene, dice: Random) -> str:
        """Freeze one."""
        self._victim = dice.choice(scene.of("worker", "hand"))
        self._victim.freeze()
        return self._victim.name

    def stop(self, scene: Scene) -> None:
        """Let it go on."""
        assert self._victim is not None
        self._victim.thaw()
