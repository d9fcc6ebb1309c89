"""How soon a task is taken over whose holder was killed."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from streamq.bench.floor import holding
from streamq.bench.floor.putting import stored
from streamq.bench.latencies import Latencies
from streamq.bench.options import COMMON, Common
from streamq.bench.ours import idling, working
from streamq.bench.ours.working import Work
from streamq.bench.place import Client, Place, collection
from streamq.bench.result import CONTENDERS, FLOOR, encoded, figures_of, latency_ratios
from streamq.bench.run import Run, running
from streamq.bench.worked import Worked


def lease(
    *,
    tasks: Annotated[int, Parameter(help="Tasks that the holder runs when it is killed.")] = 4,
    lease_s: Annotated[float, Parameter(help="Their lease.")] = 1.0,
    rounds: Annotated[int, Parameter(help="Rounds of each contender.")] = 10,
    common: Common = COMMON,
) -> None:
    """Expired leases: from the end of the lease of a holder that was SIGKILLed to the next holder's first line.

    The floor is one thread that sleeps until the earliest lease ends and takes over what has ended. By the wall clock:
    server and bench on one machine.
    """
    with running("lease", common, 120.0, {"tasks": tasks, "lease_s": lease_s, "rounds": rounds}) as run:
        late = {name: Latencies() for name in CONTENDERS}
        for _, order in run.turns(rounds):
            for name in order:
                with run.place() as place:
                    late[name].add(_play(run, name, place, tasks, lease_s))
            figures = figures_of(late)
            run.found(latency_ratios(figures), figures, histograms=encoded(late))


def _play(run: Run, name: str, place: Place, tasks: int, lease_s: float) -> list[int]:
    stored(place, run.until, tasks)
    holder, hand = run.cast.actor(f"{name} holder"), run.cast.actor(f"{name} consumer")
    holder.begin(holding.hold if name == FLOOR else idling.hold, place, tasks, lease_s)
    holder.wait_ready()
    if name == FLOOR:
        hand.begin(holding.take_over, place, tasks)
    else:
        hand.begin(working.work, place, Work(count=tasks, slots=tasks, wall=True, lease_s=lease_s))
    hand.wait_ready()
    run.cast.dismiss(holder)  # by SIGKILL
    ends = _lease_ends(place)
    worked: Worked = hand.result()
    run.short(f"{name} tasks", len(worked.rows), tasks)
    return [handled_at - ends[number] for number, _, _, handled_at in worked.rows if number in ends]


def _lease_ends(place: Place) -> dict[int, int]:
    with Client(place.uri, tz_aware=True) as client:
        held: list[dict[str, Any]] = list(collection(client, place, durable=False).find({"status": "running"}))
    return {one["payload"]["number"]: round(one["lease_until"].timestamp() * 1_000) * 1_000_000 for one in held}
