"""Whether a queue gives more than its takers can take, so that wakes from the stream tell nothing new."""

from __future__ import annotations

from typing import Final

WINDOW_S: Final = 0.5
"""How long claims must come back full before the queue counts as saturated: shorter than a stream takes to pay for its
being opened again (three trips and a scan), long against one claim."""

BUSY_PER_S: Final = 500
"""Claimed tasks a second from which on the stream costs more than it gives: it reads three entries of the oplog for
each (put, claim, end), about 60 µs of the server's time (docs/measurements.md). Below it stays open, for what else it
tells."""


class Pressure:
    """What the last claims from the head of a queue came to. Pure: the caller says what time it is."""

    def __init__(self) -> None:
        self._began: float | None = None  # of the window that is running; None: the last claim came back short
        self._claimed = 0
        self._busy = False  # whether the window before was full and busy

    def note(self, now: float, claimed: int, *, full: bool) -> None:
        """Note a claim from the head: how many it obtained, and whether more was there."""
        if not full:
            self._began, self._busy = None, False
            return
        if self._began is None:
            self._began, self._claimed = now, 0
        self._claimed += claimed
        if now - self._began >= WINDOW_S:
            self._busy = self._claimed >= BUSY_PER_S * (now - self._began)
            self._began, self._claimed = now, 0

    def is_high(self, now: float) -> bool:
        """Say whether claims have come back full, and quickly, for a whole window and are still doing so."""
        return self._busy and self._began is not None and now - self._began < 2 * WINDOW_S
