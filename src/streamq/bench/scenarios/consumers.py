"""Many consumers in one process."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter

from streamq.bench.floor import sizes
from streamq.bench.floor.putting import stored
from streamq.bench.options import COMMON, Common
from streamq.bench.ours.working import Work
from streamq.bench.rates import Rates
from streamq.bench.result import FLOOR, STREAMQ, ratio
from streamq.bench.rounds import play_drain, settled
from streamq.bench.run import running


def consumers(
    *,
    consumers: Annotated[
        tuple[int, ...], Parameter(help="Trio tasks of the process that consume; each number is tried.")
    ] = (64, 1_000),
    tasks: Annotated[int, Parameter(help="Tasks that wait in each round.")] = 20_000,
    rounds: Annotated[int, Parameter(help="Rounds of each.")] = 3,
    by: Annotated[
        Literal["loop", "own", "work"],
        Parameter(help="They share one consume(), have one each, or are the slots of a worker."),
    ] = "loop",
    common: Common = COMMON,
) -> None:
    """Many consumers in one process: change streams, threads and tasks a second, against few of them.

    The floor drains the same in plain PyMongo, in its best batch sizes.
    """
    options = {"consumers": list(consumers), "tasks": tasks, "rounds": rounds, "by": by}
    with running("consumers", common, 180.0, options) as run:
        rates = Rates()
        threads: dict[str, dict[str, Any]] = {}
        for _, order in run.turns(rounds):
            for name in order:
                for count in consumers if name == STREAMQ else (1,):
                    shown = name if name == FLOOR else f"{name} {count}"
                    with run.place() as place:
                        waiting = stored(place, run.until, tasks)
                        asked = Work(count=waiting, slots=count, by=by, go=True)
                        hands = [run.cast.actor(f"{name} consumer")]
                        seconds, worked = play_drain(run, name, place, waiting, hands, sizes.BEST, asked)
                    rates.add(shown, settled(worked), seconds)
                    run.short(f"{shown} tasks", settled(worked), waiting)
                    if name == STREAMQ:
                        threads[str(count)] = {"threads": worked[0].most_threads, "streams": worked[0].streams}
            figures = rates.figures()
            few, many = f"{STREAMQ} {consumers[0]}", f"{STREAMQ} {consumers[-1]}"
            run.found(
                {"ratio": ratio(rates.median(many), rates.median(FLOOR))},
                figures | ({STREAMQ: figures[many]} if many in figures else {}),
                many_against_few=ratio(rates.median(many), rates.median(few)),
                consumers=threads,
                tracks=rates.tracks,
                track_of="tasks/s",
            )
