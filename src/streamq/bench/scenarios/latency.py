"""Pickup latency at a rate that leaves everybody idle most of the time."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from streamq.bench.options import COMMON, Common
from streamq.bench.pickups import Pickups
from streamq.bench.result import CONTENDERS, FLOOR, STREAMQ, encoded, figures_of, latency_ratios, ratio
from streamq.bench.rounds import pick_one_by_one, play_pickups
from streamq.bench.run import running


def latency(
    *,
    rate: Annotated[float, Parameter(help="Puts a second.")] = 100.0,
    seconds: Annotated[float, Parameter(help="Seconds of puts in one round.")] = 3.0,
    rounds: Annotated[int, Parameter(help="Rounds of each contender: a p99 needs many short ones.")] = 14,
    slots: Annotated[int, Parameter(help="Tasks that the consumer runs at once.")] = 16,
    warm_up: Annotated[int, Parameter(help="Tasks at the start of a round that are not counted.")] = 50,
    common: Common = COMMON,
) -> None:
    """Pickup latency, idle: from the put's call to the handler's first line, one producer and one consumer process.

    Open loop: each latency counts from the instant at which its put was intended. The floor is one thread of plain
    PyMongo: a change stream, then find_one_and_update by id.
    """
    options = {"rate": rate, "seconds": seconds, "rounds": rounds, "slots": slots}
    with running("latency", common, 180.0, options) as run:
        pickups = {name: Pickups(warm_up) for name in CONTENDERS}
        for _, order in run.turns(rounds):
            for name in order:
                count = round(rate * seconds) + warm_up
                pickups[name].add(*play_pickups(run, name, pick_one_by_one(name, slots), rate, count), count)
            latencies = {name: one.pickup for name, one in pickups.items()}
            from_call = figures_of({name: one.from_call for name, one in pickups.items()})
            run.found(
                latency_ratios(figures_of(latencies)),
                {name: one.figures() for name, one in pickups.items()},
                **{
                    f"ratio_from_call_{share}": ratio(
                        from_call[STREAMQ].get(f"{share}_ms"), from_call[FLOOR].get(f"{share}_ms")
                    )
                    for share in ("p50", "p99")
                },
                **{f"phases_{name}": one.by_phase() for name, one in pickups.items()},
                histograms=encoded(latencies),
                tracks={name: one.track for name, one in pickups.items()},
                track_of="p99 of a round, ms",
            )
        for name, one in pickups.items():
            run.short(f"{name} pickups", one.done, one.wanted)
