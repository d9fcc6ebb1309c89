"""Pauses before something is tried again: longer each time, until it went well."""

from __future__ import annotations

from typing import Final

from streamq.runtime import clock

PAUSE_S: Final = (0.1, 5.0)
"""Shortest and longest, doubling, jittered. Chosen freely: a server that restarts is met within seconds, one that is
away for long is asked by each doer of a process a dozen times a minute."""


class Pauses:
    """Those of one doer."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def went_well(self) -> None:
        """The next failure begins with the shortest pause again."""
        self._next_s = 0.0

    def next_s(self, *, first_free: bool = False) -> float:
        """Return how long to wait after a failure; after the first one not at all, if that is free."""
        pause_s = self._next_s if first_free else max(self._next_s, PAUSE_S[0])
        self._next_s = min(max(pause_s * 2, PAUSE_S[0]), PAUSE_S[1])
        return clock.jittered(pause_s)
