"""What a worker's scheduler does, done once by whoever finds nothing to claim: there may be no worker anywhere."""

from __future__ import annotations

from streamq.runtime import clock
from streamq.runtime.scheduler import SWEEP_S
from streamq.store.contract import Store, Tick


class Upkeep:
    """Of one process without a scheduler of its own. Any thread."""

    def __init__(self) -> None:
        self._sweep_at = clock.thread_now() + SWEEP_S

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
