"""The server's clock, as this process knows it: what it last said, plus monotonic time since.

The wall clock of this machine is never asked. The time is counted from before the question was sent, so the
estimate is ahead of the server by at most one round trip: a task delayed by it never starts early.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

FRESH_S: Final = 30.0
"""How long an answer is used. Two clocks that drift by 100 ppm come 3 ms apart in that time."""


class ServerClock:
    """Ask `hello` when the last answer is older than `FRESH_S`; any thread may call."""

    def __init__(self, ask: Callable[[], datetime]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._heard: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        """Return the server's time as an aware datetime. Trips: one when the last answer is stale, else none."""
        with self._lock:
            if self._heard is None or time.monotonic() - self._heard[1] > FRESH_S:
                sent = time.monotonic()
                self._heard = (self._ask(), sent)
            said, at = self._heard
        return said + timedelta(seconds=time.monotonic() - at)
