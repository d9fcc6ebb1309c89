"""Times in which something did not happen. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import msgspec

from tests.chaos.event import AnyEvent, Probed

OUT_S: Final = 1.0
"""A probe that hears nothing for so long says that the server is out; it writes three or four times a second."""


class Silence(msgspec.Struct, frozen=True):
    """A time in which something did not happen."""

    from_s: float
    to_s: float

    @property
    def length_s(self) -> float:
        """How long it was."""
        return self.to_s - self.from_s

    def shared_s(self, other: Silence) -> float:
        """How long both were."""
        return max(0.0, min(self.to_s, other.to_s) - max(self.from_s, other.from_s))


def silences(instants: Iterable[float], from_s: float, to_s: float) -> list[Silence]:
    """Return what lies between the instants, from `from_s` to `to_s`. The one that had begun before is counted from its
    beginning."""
    inside = sorted(one for one in instants if one < to_s)
    before = [one for one in inside if one <= from_s]
    points = [before[-1] if before else from_s, *(one for one in inside if one > from_s), to_s]
    return [Silence(first, second) for first, second in pairwise(points)]


def longest(instants: Iterable[float], from_s: float, to_s: float) -> Silence:
    """Return the longest silence between `from_s` and `to_s`."""
    return max(silences(instants, from_s, to_s), key=lambda silence: silence.length_s)


def written(history: Iterable[AnyEvent]) -> list[float]:
    """Return when the probe had written."""
    return [one.at for one in history if isinstance(one, Probed)]


def server_outs(history: Iterable[AnyEvent], from_s: float | None = None, to_s: float | None = None) -> list[Silence]:
    """Return the times in which the server took no writes of the probe; unless it is said otherwise, between the first
    of these and the last."""
    writes = written(history)
    if from_s is None or to_s is None:
        from_s, to_s = min(writes, default=0.0), max(writes, default=0.0)
    return [one for one in silences(writes, from_s, to_s) if one.length_s > OUT_S]
