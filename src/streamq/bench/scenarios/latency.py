"""Pickup latency at a rate that leaves everybody idle most of the time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from cyclopts import Parameter

from streamq.bench.options import COMMON, Common
from streamq.bench.pickups import Pickups
from streamq.bench.result import (
    CONTENDERS,
    FLOOR,
    STREAMQ,
    TAILABLE,
    Figures,
    encoded,
    figures_of,
    latency_ratios,
    ratio,
)
from streamq.bench.rounds import pick_one_by_one, play_pickups
from streamq.bench.run import running
from streamq.core.notice import WakeBy


def latency(
    *,
    rate: Annotated[float, Parameter(help="Puts a second.")] = 100.0,
    seconds: Annotated[float, Parameter(help="Seconds of puts in one round.")] = 3.0,
    rounds: Annotated[int, Parameter(help="Rounds of each contender: a p99 needs many short ones.")] = 14,
    slots: Annotated[int, Parameter(help="Tasks that the consumer runs at once.")] = 16,
    warm_up: Annotated[int, Parameter(help="Tasks at the start of a round that are not counted.")] = 50,
    wake: Annotated[
        Literal["stream", "tailable", "both"],
        Parameter(help="By what streamq's puts wake; both: one beside the other, in turns."),
    ] = "stream",
    common: Common = COMMON,
) -> None:
    """Pickup latency, idle: from the put's call to the handler's first line, one producer and one consumer process.

    Open loop: each latency counts from the instant at which its put was intended. The floor is one thread of plain
    PyMongo: a change stream, then find_one_and_update by id.
    """
    options = {"rate": rate, "seconds": seconds, "rounds": rounds, "slots": slots, "wake": wake, "nodes": common.nodes}
    with running("latency", common, 180.0, options) as run:
        contenders = (*CONTENDERS, TAILABLE) if wake == "both" else CONTENDERS
        pickups = {name: Pickups(warm_up) for name in contenders}
        for _, order in run.turns(rounds, contenders):
            for name in order:
                count = round(rate * seconds) + warm_up
                by: WakeBy = "tailable" if name == TAILABLE or (name == STREAMQ and wake == "tailable") else "stream"
                played = play_pickups(run, name, pick_one_by_one(name, slots), rate, count, wake=by)
                pickups[name].add(*played, count)
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
                **({"tailable_to_stream": _beside(pickups)} if wake == "both" else {}),
                **{f"phases_{name}": one.by_phase() for name, one in pickups.items()},
                histograms=encoded(latencies),
                tracks={name: one.track for name, one in pickups.items()},
                track_of="p99 of a round, ms",
            )
        for name, one in pickups.items():
            run.short(f"{name} pickups", one.done, one.wanted)


def _beside(pickups: Mapping[str, Pickups]) -> Figures:
    """What the wake channel does to the pickup and to the put's acknowledgement, as ratios."""
    taken = {
        "pickup": {name: pickups[name].from_call for name in (STREAMQ, TAILABLE)},
        "put_ack": {name: pickups[name].phases["put_ack"] for name in (STREAMQ, TAILABLE)},
    }
    return {
        f"{what}_{share}": ratio(one[TAILABLE].figures().get(f"{share}_ms"), one[STREAMQ].figures().get(f"{share}_ms"))
        for what, one in taken.items()
        for share in ("p50", "p99")
    }
