"""Whether a queue gives so much that looking at it costs less than to be told by the stream."""

from __future__ import annotations

from typing import Final

WINDOW_S: Final = 0.5
"""How long much must have been claimed: long against one claim, and against what opening a stream again costs (three
trips and a scan)."""

BUSY_PER_S: Final = 500
"""Claimed tasks a second from which on the stream costs more than it gives when claims come back full anyway: it reads
three entries of the oplog for each (put, claim, end), 60 to 100 µs of the server's time (docs/measurements.md)."""

QUICK_PER_S: Final = 1_000
"""The same when claims come back short, and the queue has to be looked at again and again instead: 200 looks a second
cost as much, server and process together, as a stream of 600 tasks a second."""

LOOK_S: Final = 0.001
"""From a look's answer to the next look. With 5 ms a task was started 2 ms later at 2,000 a second
(docs/measurements.md)."""


class Pressure:
    """What the last claims from a queue came to. Pure: the caller says what time it is."""

    def __init__(self) -> None:
        self._began: float | None = None  # of the window that is running
        self._claimed = 0
        self._full = True  # whether all of its claims were
        self._busy = False  # what the window before came to

    def note(self, now: float, claimed: int, *, full: bool) -> None:
        """Note a claim: how many it obtained, and whether more was there."""
        if self._began is None or now - self._began >= 2 * WINDOW_S:
            self.forget()
            self._began = now
        self._claimed += claimed
        self._full = self._full and full
        if now - self._began >= WINDOW_S:
            enough = BUSY_PER_S if self._full or self._busy else QUICK_PER_S
            self._busy = self._claimed >= enough * (now - self._began)
            self._began, self._claimed, self._full = now, 0, True

    def forget(self) -> None:
        """Begin anew: something came that only the stream tells of."""
        self._began, self._claimed, self._full, self._busy = None, 0, True, False

    def is_high(self, now: float) -> bool:
        """Say whether much was claimed for a whole window, and still is."""
        return self._busy and self._began is not None and now - self._began < 2 * WINDOW_S
