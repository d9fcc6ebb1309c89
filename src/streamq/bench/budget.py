"""The time a run may take, whatever happens in it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from streamq.errors import OptionInvalid, StreamQError

LEAST_S: Final = 2.0
RESERVE: Final = 0.15
RESERVE_S: Final = (0.8, 5.0)
"""What is kept of the time for ending: processes give back and end, the database is dropped, the server stopped."""

HARD_S: Final = 0.25
"""How long before the end the run is broken off, should something hang in spite of all deadlines."""


class OutOfTime(StreamQError):
    """The run was broken off at the end of its time."""


class Budget:
    """Begins when it is made. Instants are `time.monotonic`."""

    def __init__(self, duration_s: float) -> None:
        if not duration_s >= LEAST_S:
            raise OptionInvalid("duration", duration_s, f"seconds, {LEAST_S:g} or more")
        self.began_at = time.monotonic()
        self.duration_s = duration_s
        reserve_s = min(max(duration_s * RESERVE, RESERVE_S[0]), RESERVE_S[1])
        self.until = self.began_at + duration_s - reserve_s

    @property
    def left_s(self) -> float:
        """Seconds left for measuring; 0 when it is over."""
        return max(0.0, self.until - time.monotonic())

    @property
    def took_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began_at

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Raise `OutOfTime` in the body when the time is as good as over. For the main thread."""

        def break_off(number: int, frame: FrameType | None) -> None:
            raise OutOfTime(f"broken off after {self.duration_s:g} s")

        before = signal.signal(signal.SIGALRM, break_off)
        signal.setitimer(signal.ITIMER_REAL, max(0.01, self.duration_s - HARD_S - self.took_s))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
