"""How long nothing went on, and when it went on again after a fault. Pure.

The server's own outage is measured beside streamq's: the probe makes a new client for each of its writes, so it knows
nothing of connections that hang. What streamq takes longer than the probe is streamq's.

Both are looked at over the same time, and that is the silence of streamq, from the last settlement before to the first
one after, whatever struck meanwhile:

    primary frozen      worker frozen
          │                   │
    ──────┼───────────────────┼───────────────▶ time
    settled  ·|···················|             a silence of 7 s …
    probed   ··|········|··················     … of which the server was out for 3: streamq's are 4

Of the fault in the middle alone it would look as if nothing had been settled for 7 s while the server was well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from tests.chaos.event import AnyEvent, Settled
from tests.chaos.excuses import Window, windows
from tests.chaos.silence import Silence, longest, server_outs, silences, written

OVER_S: Final = 3.0
"""The target: nothing stands still for longer than the server's own outage and this."""


class Gap(msgspec.Struct, frozen=True):
    """A time in which nothing was settled; for how long of it the server was out; which faults were there."""

    silence: Silence
    server_out_s: float
    faults: tuple[str, ...]

    @property
    def own_s(self) -> float:
        """What of it is not the server's."""
        return self.silence.length_s - self.server_out_s

    @property
    def weight(self) -> tuple[float, float]:
        """By which the worst is found: what is over the target, then what is long."""
        return max(0.0, self.own_s - OVER_S), self.silence.length_s


class Outage(msgspec.Struct, frozen=True):
    """What one fault cost: the worst gap that touches it, see `Gap.weight`. None: it did not go on
    before the next fault of its kind, or the end."""

    fault: str
    gap_s: float
    server_gap_s: float
    until_written_s: float | None
    until_settled_s: float | None


def progress(history: Iterable[AnyEvent]) -> list[float]:
    """Return when a task was settled, by the store's answer."""
    return [one.at for one in history if isinstance(one, Settled) and one.verdict == "settled"]


def goes_on(history: Sequence[AnyEvent], after: float) -> bool:
    """Say whether the probe wrote after that instant, and a task was settled after that write."""
    wrote_at = min((one for one in written(history) if one > after), default=None)
    return wrote_at is not None and any(one >= wrote_at for one in progress(history))


def gaps(history: Sequence[AnyEvent], from_s: float, to_s: float) -> list[Gap]:
    """Return all silences of the settlements from `from_s` to `to_s`, in their order."""
    outs = server_outs(history, from_s, to_s)
    struck = windows(history)
    return [
        Gap(silence, sum(map(silence.shared_s, outs)), _there(struck, silence))
        for silence in silences(progress(history), from_s, to_s)
    ]


def _there(struck: Sequence[Window], silence: Silence) -> tuple[str, ...]:
    """Name the faults that were there in a silence; if none was, the one that it came after."""
    there = [one.fault for one in struck if one.from_s < silence.to_s and silence.from_s < one.to_s]
    before = [one.fault for one in struck if one.from_s < silence.to_s]
    return tuple(there or before[-1:])


def outages(history: Sequence[AnyEvent], began_at: float, ends_at: float) -> list[Outage]:
    """Measure each fault of a round, from its beginning to the beginning of the next one or the end of the load."""
    found = gaps(history, began_at, ends_at)
    settled = progress(history)
    writes = written(history)
    struck = windows(history)
    return [
        _outage(window, min([other.from_s for other in struck[number + 1 :]] + [ends_at]), found, settled, writes)
        for number, window in enumerate(struck)
    ]


def _outage(
    window: Window, to_s: float, found: Sequence[Gap], settled: Sequence[float], writes: Sequence[float]
) -> Outage:
    to_s = max(to_s, window.from_s)
    writes_from = _end_of_silence(writes, window.from_s, to_s)
    settles_from = None if writes_from is None else next((at for at in sorted(settled) if writes_from <= at), None)
    touching = [one for one in found if one.silence.from_s <= to_s and window.from_s <= one.silence.to_s]
    worst = max(touching, key=lambda gap: gap.weight, default=Gap(Silence(to_s, to_s), 0.0, ()))
    return Outage(
        fault=window.fault,
        gap_s=worst.silence.length_s,
        server_gap_s=worst.server_out_s,
        until_written_s=None if writes_from is None else writes_from - window.from_s,
        until_settled_s=None if settles_from is None else settles_from - window.from_s,
    )


def _end_of_silence(instants: Iterable[float], from_s: float, to_s: float) -> float | None:
    """Return when the longest silence that had an end ended: a write may still go through as the fault begins."""
    own = list(instants)
    last = max((one for one in own if from_s < one <= to_s), default=None)
    return None if last is None else longest(own, from_s, last).to_s
