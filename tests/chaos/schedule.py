"""When which nemesis strikes: drawn from a seed alone, so that a run can be repeated. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final

import msgspec

from tests.chaos.nemesis import Lane, Nemesis

LANES: Final[tuple[Lane, ...]] = ("server", "programs")

Makers = Mapping[str, Callable[[], Nemesis]]


class Strike(msgspec.Struct, frozen=True):
    """One fault to come, in seconds from the start of the load. `seed` is for what the nemesis draws itself."""

    at_s: float
    nemesis: str
    lane: Lane
    hold_s: float
    seed: int

    def __str__(self) -> str:
        return f"{self.at_s:7.1f} s  {self.nemesis} for {self.hold_s:.1f} s"


class Pauses(msgspec.Struct, frozen=True):
    """The quiet before a strike, drawn between these: long enough to see what went on again."""

    least_s: float = 5.0
    most_s: float = 12.0


QUIET: Final = Pauses()


def strikes(seed: int, makers: Makers, names: Sequence[str], length_s: float, pauses: Pauses = QUIET) -> list[Strike]:
    """Draw the strikes of `length_s` seconds: in each lane one after the other, lanes beside each other."""
    by_lane = {lane: [name for name in names if makers[name]().lane == lane] for lane in LANES}
    drawn = [
        strike
        for lane, own in by_lane.items()
        if own
        for strike in _of_lane(Random(f"{seed} {lane}"), lane, own, makers, length_s, pauses)
    ]
    return sorted(drawn, key=lambda strike: strike.at_s)


def _of_lane(
    dice: Random, lane: Lane, names: Sequence[str], makers: Makers, length_s: float, pauses: Pauses
) -> list[Strike]:
    drawn: list[Strike] = []
    at_s = dice.uniform(pauses.least_s, pauses.most_s)
    while True:
        name = dice.choice(names)
        hold_s = makers[name]().hold_s(dice)
        if at_s + hold_s > length_s:
            return drawn
        drawn.append(Strike(at_s, name, lane, hold_s, dice.getrandbits(32)))
        at_s += hold_s + dice.uniform(pauses.least_s, pauses.most_s)
