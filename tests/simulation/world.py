"""The world of one run: its time, what is on the way, and the processes, stepped one after the other by dice."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from random import Random
from typing import Protocol

Action = Callable[[], None]

MOST_STEPS = 200_000
"""A run takes some thousands. One that goes on and on without time passing has hung."""


class Hung(Exception):
    """Something went round and round."""


class Actor(Protocol):
    """A process, as far as the world is concerned."""

    @property
    def due_at(self) -> float:
        """When it wants to be stepped; infinity: it waits to be told."""

    @property
    def over(self) -> bool:
        """Whether it has ended."""

    def step(self) -> None:
        """Go on."""


class World:
    """`now` is what the server's clock says, in seconds."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.dice = Random(seed)
        self.actors: list[Actor] = []
        self.passing: Callable[[float], None] = lambda seconds: None  # told of time before it passes
        self._events: list[tuple[float, int, Action]] = []
        self._count = 0

    def after(self, seconds: float, action: Action) -> None:
        """Let something happen so much later."""
        self.at(self.now + seconds, action)

    def at(self, at: float, action: Action) -> None:
        """Let something happen then. What is to happen at one instant does so in the order it was said."""
        self._count += 1
        heapq.heappush(self._events, (at, self._count, action))

    def run(self, is_over: Callable[[], bool], until: float) -> bool:
        """Go on until `is_over`, asked whenever nothing is left to be done at an instant; False: `until` came first, or
        nothing will ever happen any more."""
        for _ in range(MOST_STEPS):
            if self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
                continue
            due = [(actor.due_at, actor) for actor in self.actors]
            ready = [actor for at, actor in due if at <= self.now]
            if ready:
                actor = ready[0] if len(ready) == 1 else self.dice.choice(ready)
                actor.step()
                if actor.over:
                    self.actors.remove(actor)
                continue
            if is_over():
                return True
            next_at = min((at for at, _ in due), default=math.inf)
            if self._events:
                next_at = min(next_at, self._events[0][0])
            if next_at > until:
                return False
            self.passing(next_at - self.now)
            self.now = next_at
        raise Hung(f"{MOST_STEPS:,} steps, and it is {self.now:.3f} s only")
