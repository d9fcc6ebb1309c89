"""How long nothing went on, and when it went on again after a fault. Pure.

The server's own outage is measured beside streamq's: the probe makes a new client for each of its writes, so it knows
nothing of connections that hang. What streamq takes longer than the probe is streamq's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from tests.chaos.event import AnyEvent, Probed, Settled
from tests.chaos.excuses import Window, windows


class Silence(msgspec.Struct, frozen=True):
    """A time in which something did not happen."""

    from_s: float
    to_s: float

    @property
    def length_s(self) -> float:
        """How long it was."""
        return self.to_s - self.from_s


class Outage(msgspec.Struct, frozen=True):
    """What one fault cost. None: it did not go on before the next fault of its kind, or the end."""

    fault: str
    gap_s: float
    server_gap_s: float
    until_written_s: float | None
    until_settled_s: float | None


def longest(instants: Iterable[float], from_s: float, to_s: float) -> Silence:
    """Return the longest silence between `from_s` and `to_s`. One that began before is counted from its beginning."""
    inside = sorted(one for one in instants if one < to_s)
    before = [one for one in inside if one <= from_s]
    points = [before[-1] if before else from_s, *(one for one in inside if one > from_s), to_s]
    silences = [Silence(first, second) for first, second in pairwise(points)]
    return max(silences, key=lambda silence: silence.length_s)


def progress(history: Iterable[AnyEvent]) -> list[float]:
    """Return when a task was settled, by the store's answer."""
    return [one.at for one in history if isinstance(one, Settled) and one.verdict == "settled"]


def outages(history: Sequence[AnyEvent], ends_at: float) -> list[Outage]:
    """Measure each fault of a run, from its beginning to the beginning of the next one or the end of the load."""
    settled = progress(history)
    written = [one.at for one in history if isinstance(one, Probed)]
    struck = windows(history)
    return [
        _outage(window, min([other.from_s for other in struck[number + 1 :]] + [ends_at]), settled, written)
        for number, window in enumerate(struck)
    ]


def _outage(window: Window, to_s: float, settled: Sequence[float], written: Sequence[float]) -> Outage:
    to_s = max(to_s, window.from_s)
    writes_from = _end_of_silence(written, window.from_s, to_s)
    settles_from = None if writes_from is None else next((at for at in sorted(settled) if writes_from <= at), None)
    return Outage(
        fault=window.fault,
        gap_s=longest(settled, window.from_s, to_s).length_s,
        server_gap_s=longest(written, window.from_s, to_s).length_s,
        until_written_s=None if writes_from is None else writes_from - window.from_s,
        until_settled_s=None if settles_from is None else settles_from - window.from_s,
    )


def _end_of_silence(instants: Iterable[float], from_s: float, to_s: float) -> float | None:
    """Return when the longest silence that had an end ended: a write may still go through as the fault begins."""
    own = list(instants)
    last = max((one for one in own if from_s < one <= to_s), default=None)
    return None if last is None else longest(own, from_s, last).to_s
