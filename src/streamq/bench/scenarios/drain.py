"""Draining of tasks that wait."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from streamq.bench.floor import sizes
from streamq.bench.floor.putting import stored
from streamq.bench.options import COMMON, Common
from streamq.bench.ours.working import Work
from streamq.bench.place import write_conflicts
from streamq.bench.rates import Rates
from streamq.bench.result import STREAMQ, ratio
from streamq.bench.rounds import per_s, play_drain, settled, total
from streamq.bench.run import running


def drain(
    *,
    tasks: Annotated[int, Parameter(help="Tasks that wait in each round.")] = 200_000,
    processes: Annotated[tuple[int, ...], Parameter(help="Consumer processes; given several times, each is tried.")] = (
        1,
        4,
    ),
    rounds: Annotated[int, Parameter(help="Rounds of each contender and number of processes.")] = 1,
    slots: Annotated[int, Parameter(help="Tasks that a consumer runs at once.")] = 64,
    common: Common = COMMON,
) -> None:
    """Drain waiting tasks by one process and by several, handlers that do nothing.

    The floor does so in plain PyMongo, in its best batch sizes, with as many processes.
    """
    options = {"tasks": tasks, "processes": list(processes), "rounds": rounds, "slots": slots}
    with running("drain", common, 300.0, options) as run:
        rates = {count: Rates() for count in processes}
        wasted: dict[str, dict[str, object]] = {}
        for number, order in run.turns(rounds * len(processes)):
            count = processes[number % len(processes)]
            for name in order:
                with run.place() as place:
                    run.bar.say(f"{name}, {count} processes")
                    waiting = stored(place, run.until, tasks)
                    run.short("tasks stored", waiting, tasks)
                    # Alone it ends by itself; of several none knows of the others.
                    asked = Work(count=waiting if count == 1 else None, slots=slots, go=True)
                    hands = run.cast.actors(f"{name} consumer", count)
                    before = write_conflicts(run.uri)
                    seconds, worked = play_drain(run, name, place, waiting, hands, sizes.BEST, asked)
                    conflicts = write_conflicts(run.uri) - before
                rates[count].add(name, settled(worked), seconds)
                run.short(f"{name} tasks, {count} processes", settled(worked), waiting)
                wasted[f"{name}, {count} processes"] = {
                    "per_s": per_s(settled(worked), seconds),
                    "claim_calls": (claims := total(worked, "claim_calls")),
                    "empty_calls": total(worked, "empty_calls"),
                    "conflicts_per_claim": ratio(conflicts, claims),
                }
            first, last = rates[processes[0]], rates[processes[-1]]
            run.found(
                {f"ratio_{count}": one.ratio() for count, one in rates.items()} | {"ratio": first.ratio()},
                first.figures(),
                rounds=wasted,
                processes_gain=ratio(last.median(STREAMQ), first.median(STREAMQ)),
                tracks={
                    f"{name}, {count}": track for count, one in rates.items() for name, track in one.tracks.items()
                },
                track_of="tasks/s",
            )
