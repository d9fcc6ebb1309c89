"""What a worker's scheduler does, done once by whoever finds nothing to claim: there may be no worker anywhere."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from typing import Final

from streamq.errors import ClaimUnknown, StoreError
from streamq.runtime import clock
from streamq.runtime.scheduler import SWEEP_S
from streamq.store.contract import Store, Tick

PAUSE_S: Final = 1.0
"""Before giving up an unknown claim is tried again."""


class Upkeep:
    """Of one process without a scheduler of its own. Any thread."""

    def __init__(self) -> None:
        self._sweep_at = clock.thread_now() + SWEEP_S
        self._unknown: deque[tuple[float, ClaimUnknown]] = deque()

    def remember(self, unknown: ClaimUnknown) -> None:
        """Take charge of a claim that may have been applied, or still may be: its tasks are in nobody's hands."""
        self._unknown.append((clock.thread_now() + unknown.settles_in_s, unknown))

    def abandon(self, store: Store) -> float:
        """Release what unknown claims of before hold, once nothing of theirs is under way any more; say in how many
        seconds there is more to do (infinity: never). Trips: 1 for each, else none."""
        for _ in range(len(self._unknown)):
            try:
                at, unknown = self._unknown.popleft()
            except IndexError:
                break  # another thread sees to it
            if at <= clock.thread_now():
                with contextlib.suppress(StoreError):
                    store.abandon(unknown)
                    continue
                at = clock.thread_now() + PAUSE_S
            self._unknown.append((at, unknown))
        return max(0.0, min((at for at, _ in list(self._unknown)), default=math.inf) - clock.thread_now())

    def do(self, store: Store) -> Tick:
        """Release what is due, take back what has ended, see to what follows, and to what follows that.

        Trips: 3 when nothing is due; every 30 s those of a sweep.
        """
        ticks = [store.tick()]
        while ticks[-1].followed:
            ticks.append(store.tick())
        next_s = ticks[-1].next_s
        if clock.thread_now() >= self._sweep_at:
            self._sweep_at = clock.thread_now() + SWEEP_S
            ticks.append(store.sweep())
        return Tick(tuple(one for tick in ticks for one in tick.released), sum(tick.failed for tick in ticks), next_s)
