"""Pickups: tasks that are put at a rate and picked up at once, phase by phase.

    intended ──late──▶ called ──ack──▶ acked ──event──▶ heard ──claim──▶ claimed ──start──▶ handler's first line

An event may be read before the put's own acknowledgement is: such a phase counts as nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from streamq.bench.latencies import Latencies
from streamq.bench.result import Figures, Track
from streamq.bench.worked import Put, Worked

PHASES: Final = ("late", "put_ack", "ack_to_event", "event_to_claimed", "claimed_to_handler")
AHEAD_NS: Final = 20_000_000
"""Between the word to begin and the first put."""


class Pickups:
    """The pickups of one contender, over all rounds."""

    def __init__(self, warm_up: int) -> None:
        self.pickup = Latencies()  # from the instant the put was intended: without coordinated omission
        self.from_call = Latencies()
        self.phases = {name: Latencies() for name in PHASES}
        self.track: Track = []
        self.wanted = self.done = self.put = 0
        self._warm_up = warm_up
        self._began = time.monotonic()

    def add(self, put: Put, worked: Sequence[Worked], wanted: int) -> Latencies:
        """Add one round, its first tasks left out (connections, caches, the interpreter's own warm-up)."""
        rows = [row for one in worked for row in one.rows]
        self.wanted += wanted
        self.put += put.count
        self.done += len(rows)
        latest = Latencies()
        for number, heard_at, claimed_at, handled_at in rows:
            intended, called, acked = put.rows[number] if number < len(put.rows) else (0, 0, 0)
            if number < self._warm_up or not called:
                continue
            for into in (self.pickup, latest):
                into.add((handled_at - intended,))
            self.from_call.add((handled_at - called,))
            self.phases["late"].add((called - intended,))
            if acked:
                self.phases["put_ack"].add((acked - called,))
            if acked and heard_at:
                self.phases["ack_to_event"].add((heard_at - acked,))
            if heard_at and claimed_at:
                self.phases["event_to_claimed"].add((claimed_at - heard_at,))
            if claimed_at:
                self.phases["claimed_to_handler"].add((handled_at - claimed_at,))
        if latest.count:
            self.track.append((round(time.monotonic() - self._began, 1), latest.ms(99)))
        return latest

    def figures(self) -> Figures:
        """The percentiles from the intended instant, and those from the call."""
        from_call = {f"from_call_{name}": value for name, value in self.from_call.figures().items() if name != "count"}
        return self.pickup.figures() | from_call

    def by_phase(self) -> dict[str, Any]:
        """The percentiles of each phase."""
        return {name: one.figures() for name, one in self.phases.items()}


def soon() -> int:
    """The instant of a first put."""
    return time.monotonic_ns() + AHEAD_NS
