"""Throughput from put to settled."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from streamq.bench.cast import results
from streamq.bench.floor import draining, sizes
from streamq.bench.floor import putting as floor_putting
from streamq.bench.floor.sizes import Sizes
from streamq.bench.options import COMMON, Common, Flag
from streamq.bench.ours import putting, working
from streamq.bench.ours.working import Work
from streamq.bench.rates import Rates
from streamq.bench.result import FLOOR
from streamq.bench.rounds import elapsed_s, settled
from streamq.bench.run import Run, running
from streamq.bench.worked import Put, Worked


def throughput(
    *,
    tasks: Annotated[int, Parameter(help="Tasks of each contender, over all rounds.")] = 200_000,
    rounds: Annotated[int, Parameter(help="Rounds of each contender.")] = 4,
    batch: Annotated[int, Parameter(help="Tasks in one put_many of streamq's.")] = 1_000,
    slots: Annotated[int, Parameter(help="Tasks that the consumer runs at once.")] = 64,
    find_floor: Annotated[
        bool, Flag, Parameter(help="First find the batch sizes at which plain PyMongo is fastest here.")
    ] = False,
    common: Common = COMMON,
) -> None:
    """Throughput put → settled: one producer and one consumer process, handlers that do nothing.

    The floor is plain PyMongo in its best batch sizes (see --find-floor): insert_many in one process; find, update_many
    and, in a second thread, delete_many in the other.
    """
    options = {"tasks": tasks, "rounds": rounds, "batch": batch, "slots": slots}
    with running("throughput", common, 600.0 if find_floor else 240.0, options) as run:
        share = max(1, tasks // rounds)
        best, swept = _best(run, share) if find_floor else (sizes.BEST, {})
        rates = Rates()
        for _, order in run.turns(rounds):
            for name in order:
                put, worked = _play(run, name, share, best, Work(count=share, slots=slots), batch)
                seconds = elapsed_s(put.began_at, [worked])
                rates.add(name, settled([worked]), seconds)
                run.short(f"{name} tasks", settled([worked]), share)
            run.found(
                rates.ratios(),
                rates.figures(),
                floor_sizes=_told(best) | {"measured": "now" if find_floor else sizes.MEASURED},
                **swept,
                tracks=rates.tracks,
                track_of="tasks/s",
            )


def _play(run: Run, name: str, count: int, best: Sizes, asked: Work, batch: int) -> tuple[Put, Worked]:
    with run.place() as place:
        consumer, producer = run.cast.actor(f"{name} consumer"), run.cast.actor(f"{name} producer")
        if name == FLOOR:
            consumer.begin(draining.drain, place, count, best)
            producer.begin(floor_putting.put_all, place, count, best.insert)
        else:
            consumer.begin(working.work, place, asked)
            producer.begin(putting.put_all, place, count, batch)
        for one in (consumer, producer):
            one.wait_ready()
        for one in (consumer, producer):
            one.go()
        put, worked = results((producer, consumer))
        return put, worked


def _best(run: Run, count: int) -> tuple[Sizes, dict[str, object]]:
    """Try all sizes, and the three quickest once more; return the best of these by the mean of both."""
    tried: dict[Sizes, list[float]] = {one: [] for one in sizes.SWEPT}
    run.bar.begin("finding the floor", len(tried) + 3)
    for again in (False, True):
        for one in sorted(tried, key=lambda one: -sum(tried[one]))[: 3 if again else None]:
            if run.budget.left_s < run.budget.duration_s / 3:
                break
            put, worked = _play(run, FLOOR, count, one, Work(), 0)
            tried[one].append(settled([worked]) / (elapsed_s(put.began_at, [worked]) or 1.0))
            run.bar.step()
    run.short("the search for the best floor, rounds", sum(map(len, tried.values())), len(tried) + 3)
    most = max(map(len, tried.values()))
    found = {one: sum(rates) / len(rates) for one, rates in tried.items() if rates and len(rates) == most}
    swept = {_named(one): {"per_s": round(sum(rates) / len(rates))} for one, rates in tried.items() if rates}
    best = max(found, key=lambda one: found[one], default=sizes.BEST)
    to_keep = f"BEST: Final = {best!r}; MEASURED: Final = {datetime.now(UTC).date().isoformat()!r}"
    return best, {"swept": swept, "to_keep_in_floor_sizes": to_keep}


def _named(one: Sizes) -> str:
    return f"insert {one.insert}, claim {one.claim}, {'whole' if one.whole else 'projected'}"


def _told(one: Sizes) -> dict[str, object]:
    return {"insert": one.insert, "claim": one.claim, "whole": one.whole}
