"""How fast one intake's tasks are taken, and its claims answered."""

from __future__ import annotations


class Pace:
    """How fast takers take and claims come, smoothed: for deciding how much should wait in the process."""

    def __init__(self) -> None:
        self.taken_per_s = 0.0
        self.claim_s = 0.0
        self._at = 0.0
        self._taken = 0

    def slow(self) -> None:
        """Takers turned out slow: claim nothing ahead until they show otherwise."""
        self.taken_per_s = 0.0

    def note(self, now: float, claim_s: float, taken: int) -> None:
        """Note the end of a claim that took `claim_s`; `taken` is a running total."""
        elapsed = now - self._at
        if 0 < elapsed < 1:
            self.taken_per_s += (((taken - self._taken) / elapsed) - self.taken_per_s) / 2
        else:
            self.taken_per_s = 0.0  # idle in between: says nothing about how fast handlers are
        self.claim_s += (min(claim_s, 0.1) - self.claim_s) / 2
        self._at, self._taken = now, taken
