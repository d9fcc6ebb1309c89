"""What a claim costs with much waiting behind it."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from streamq.bench.floor import sizes
from streamq.bench.floor.delayed import far_ahead
from streamq.bench.floor.putting import stored
from streamq.bench.options import COMMON, Common, Flag
from streamq.bench.ours.working import Work
from streamq.bench.place import Place
from streamq.bench.result import CONTENDERS, FLOOR, STREAMQ, ratio
from streamq.bench.rounds import per_s, play_drain, settled, total
from streamq.bench.run import Run, running


def backlog(
    *,
    ready: Annotated[tuple[int, ...], Parameter(help="Tasks that wait; given several times, each is tried.")] = (
        10_000,
        1_000_000,
    ),
    delayed: Annotated[bool, Flag, Parameter(help="As many delayed tasks besides.")] = False,
    claims: Annotated[int, Parameter(help="Tasks that one round takes off the backlog, and then puts back.")] = 5_000,
    rounds: Annotated[int, Parameter(help="Rounds of each contender and backlog.")] = 3,
    slots: Annotated[int, Parameter(help="Tasks that the consumer runs at once.")] = 64,
    common: Common = COMMON,
) -> None:
    """Claims a second against the backlog: one consumer takes some thousand tasks off the head of what waits.

    The figure is tasks claimed by the time their claims took; the floor claims in plain PyMongo. Five million:
    --ready 5000000, which takes minutes to store.
    """
    options = {"ready": list(ready), "delayed": delayed, "claims": claims, "rounds": rounds, "slots": slots}
    with running("backlog", common, 600.0, options) as run:
        tables: dict[int, dict[str, dict[str, Any]]] = {}
        for waiting in ready:
            with run.place() as place:
                run.bar.begin(f"storing {waiting:,}", 1)
                run.short(f"ready tasks of {waiting:,}", stored(place, run.until, waiting), waiting)
                if delayed:
                    run.short(f"delayed tasks of {waiting:,}", stored(place, run.until, waiting, far_ahead()), waiting)
                tables[waiting] = _claims(run, place, min(claims, waiting), rounds, slots)
            _tell(run, tables)


def _claims(run: Run, place: Place, claims: int, rounds: int, slots: int) -> dict[str, dict[str, Any]]:
    claimed = dict.fromkeys(CONTENDERS, 0)
    claim_s = dict.fromkeys(CONTENDERS, 0.0)
    elapsed_s = dict.fromkeys(CONTENDERS, 0.0)
    for _, order in run.turns(rounds):
        for name in order:
            asked = Work(count=claims, slots=slots, go=True)
            hand = run.cast.actor(f"{name} consumer")
            seconds, worked = play_drain(run, name, place, claims, [hand], sizes.BEST, asked)
            claimed[name] += total(worked, "claimed")
            claim_s[name] += total(worked, "claim_ns") / 1e9
            elapsed_s[name] += seconds
            stored(place, run.until, settled(worked))
    return {
        name: {
            "claims_per_s": per_s(claimed[name], claim_s[name]),
            "settled_per_s": per_s(claimed[name], elapsed_s[name]),
            "claimed": claimed[name],
        }
        for name in CONTENDERS
    }


def _tell(run: Run, tables: dict[int, dict[str, dict[str, Any]]]) -> None:
    least, most = min(tables), max(tables)
    against = {
        f"{name}_against_{least}": {
            str(waiting): ratio(one[name]["claims_per_s"], tables[least][name]["claims_per_s"])
            for waiting, one in tables.items()
        }
        for name in CONTENDERS
    }
    run.found(
        {"ratio": ratio(tables[most][STREAMQ]["claims_per_s"], tables[most][FLOOR]["claims_per_s"])},
        tables[most],
        by_backlog={f"{name}, {waiting}": one[name] for waiting, one in tables.items() for name in CONTENDERS},
        **against,
    )
