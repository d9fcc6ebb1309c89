"""Single puts of many trio tasks at once."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from streamq.bench.floor import putting as floor_putting
from streamq.bench.options import COMMON, Common
from streamq.bench.ours import putting
from streamq.bench.rates import Rates
from streamq.bench.result import FLOOR
from streamq.bench.run import running
from streamq.bench.worked import Put


def puts(
    *,
    tasks: Annotated[int, Parameter(help="Trio tasks that put one at a time.")] = 64,
    seconds: Annotated[float, Parameter(help="Seconds of one round.")] = 3.0,
    rounds: Annotated[int, Parameter(help="Rounds of each contender.")] = 5,
    common: Common = COMMON,
) -> None:
    """Single puts a second of many trio tasks, each waiting for its own to be acknowledged.

    The floor does the same by insert_one through trio.to_thread.
    """
    with running("puts", common, 120.0, {"tasks": tasks, "seconds": seconds, "rounds": rounds}) as run:
        rates = Rates()
        for _, order in run.turns(rounds):
            for name in order:
                with run.place() as place:
                    producer = run.cast.actor(f"{name} producer")
                    play = floor_putting.put_one_by_one if name == FLOOR else putting.put_one_by_one
                    producer.begin(play, place, tasks, seconds)
                    producer.wait_ready()
                    producer.go()
                    put: Put = producer.result()
                rates.add(name, put.count, (put.ended_at - put.began_at) / 1e9)
            run.found(rates.ratios(), rates.figures(), tracks=rates.tracks, track_of="puts/s")
