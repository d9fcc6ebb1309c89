"""Pickup latency under load."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from streamq.bench.options import COMMON, Common
from streamq.bench.pickups import Pickups
from streamq.bench.result import CONTENDERS, encoded, figures_of, latency_ratios
from streamq.bench.rounds import pick_in_groups, play_pickups
from streamq.bench.run import running

WARM_UP_S = 0.5


def load(
    *,
    rate: Annotated[float, Parameter(help="Puts a second.")] = 2_000.0,
    handler_ms: Annotated[float, Parameter(help="How long a handler takes.")] = 1.0,
    seconds: Annotated[float, Parameter(help="Seconds of puts in one round.")] = 5.0,
    rounds: Annotated[int, Parameter(help="Rounds of each contender.")] = 4,
    slots: Annotated[int, Parameter(help="Tasks that the consumer runs at once.")] = 64,
    common: Common = COMMON,
) -> None:
    """Pickup latency under load, handlers that take a while; the first half second of a round is not counted.

    The floor puts what is due in groups, claims what the stream told in groups, runs handlers in a pool of threads and
    settles in groups: what one would write by hand.
    """
    options = {"rate": rate, "handler_ms": handler_ms, "seconds": seconds, "rounds": rounds, "slots": slots}
    with running("load", common, 180.0, options) as run:
        pickups = {name: Pickups(round(rate * min(WARM_UP_S, seconds / 2))) for name in CONTENDERS}
        for _, order in run.turns(rounds):
            for name in order:
                begin, count = pick_in_groups(name, slots, handler_ms / 1_000), round(rate * seconds)
                pickups[name].add(*play_pickups(run, name, begin, rate, count), count)
            latencies = {name: one.pickup for name, one in pickups.items()}
            run.found(
                latency_ratios(figures_of(latencies)),
                {name: one.figures() for name, one in pickups.items()},
                **{f"phases_{name}": one.by_phase() for name, one in pickups.items()},
                histograms=encoded(latencies),
                tracks={name: one.track for name, one in pickups.items()},
                track_of="p99 of a round, ms",
            )
        for name, one in pickups.items():
            run.short(f"{name} puts", one.put, one.wanted)
            run.short(f"{name} pickups", one.done, one.put)
