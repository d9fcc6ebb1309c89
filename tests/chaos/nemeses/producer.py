"""A producer is gone, mostly in the middle of a put of many."""

from __future__ import annotations

import time
from random import Random
from typing import Final

from tests.chaos import history
from tests.chaos.actor import Actor
from tests.chaos.event import Acked, Tried
from tests.chaos.nemesis import Lane
from tests.chaos.scene import Scene

PATIENCE_S: Final = 3.0
"""How long a put of many is waited for; after that it is killed wherever it is."""

POLL_S: Final = 0.001


class ProducerKilled:
    """SIGKILL; another takes its place. What was acknowledged is there; of the rest each task is there or is not."""

    name = "producer-killed"
    lane: Lane = "programs"
    needs_network = False

    def __init__(self) -> None:
        self._victim: Actor | None = None

    def hold_s(self, dice: Random) -> float:
        """How long its place is empty."""
        return dice.uniform(0.0, 1.0)

    def start(self, scene: Scene, dice: Random) -> str:
        """Kill one while a put of many is on its way."""
        self._victim = dice.choice(scene.of("producer"))
        deadline = time.monotonic() + PATIENCE_S
        while not (inside := _puts_many(self._victim)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self._victim.kill()
        return f"{self._victim.name}, {'with a put of many on its way' if inside else 'between two puts'}"

    def stop(self, scene: Scene) -> None:
        """Hire another."""
        scene.hire("producer", wait=False)


def _puts_many(producer: Actor) -> bool:
    """Read in its log whether it has begun a put of many and not heard of its end."""
    on_the_way: list[str] = []
    for event in history.tail(producer.log):
        if isinstance(event, Tried) and len(event.ids) > 1:
            on_the_way = event.ids
        elif isinstance(event, Acked) and event.ids == on_the_way:
            on_the_way = []
    return bool(on_the_way)
