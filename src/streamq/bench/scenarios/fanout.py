"""What one put costs with many idle processes that would like it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from streamq.bench.options import COMMON, Common
from streamq.bench.pickups import Pickups
from streamq.bench.place import write_conflicts
from streamq.bench.result import CONTENDERS, STREAMQ, encoded, latency_ratios, ratio
from streamq.bench.rounds import pick_one_by_one, play_pickups, total
from streamq.bench.run import running
from streamq.bench.worked import Put, Worked

WARM_UP = 5


def fanout(
    *,
    processes: Annotated[tuple[int, ...], Parameter(help="Idle consumer processes; each number is tried.")] = (
        1,
        4,
        16,
        48,
    ),
    rate: Annotated[float, Parameter(help="Puts a second: one task at a time.")] = 20.0,
    seconds: Annotated[float, Parameter(help="Seconds of puts in one round.")] = 5.0,
    rounds: Annotated[int, Parameter(help="Rounds of each contender and number of processes.")] = 2,
    slots: Annotated[int, Parameter(help="Tasks that a consumer runs at once.")] = 1,
    common: Common = COMMON,
) -> None:
    """Fan-out: idle consumer processes, one task at a time; claims that obtained nothing per task, the server's write
    conflicts per claim, and the pickup.

    The floor: as many processes of one thread, each a change stream, then find_one_and_update by id.
    """
    options = {"processes": list(processes), "rate": rate, "seconds": seconds, "rounds": rounds, "slots": slots}
    with running("fanout", common, 600.0, options) as run:
        pickups = {(name, count): Pickups(WARM_UP) for count in processes for name in CONTENDERS}
        wasted = dict.fromkeys(pickups, 0)
        claims, conflicts = dict.fromkeys(pickups, 0), dict.fromkeys(pickups, 0)
        for number, order in run.turns(rounds * len(processes)):
            count = processes[number // rounds]
            for name in order:
                run.bar.say(f"{name}, {count} processes")
                wanted = round(rate * seconds) + WARM_UP
                before = write_conflicts(run.uri)
                put, worked = play_pickups(run, name, pick_one_by_one(name, slots), rate, wanted, count)
                conflicts[name, count] += write_conflicts(run.uri) - before
                claims[name, count] += total(worked, "claim_calls")
                pickups[name, count].add(put, worked, wanted)
                wasted[name, count] += _wasted(put, worked)
            tables = {
                key: one.figures()
                | _per("wasted_per_task", wasted[key], one.done)
                | _per("conflicts_per_claim", conflicts[key], claims[key])
                for key, one in pickups.items()
                if one.done
            }
            least, most = min(count for _, count in tables), max(count for _, count in tables)
            figures: dict[str, dict[str, Any]] = {
                name: tables[name, most] for name in CONTENDERS if (name, most) in tables
            }
            p99 = {
                count: table["p99_ms"]
                for (name, count), table in tables.items()
                if name == STREAMQ and "p99_ms" in table
            }
            run.found(
                latency_ratios(figures),
                figures,
                wasted_per_task={str(count): tables[STREAMQ, count]["wasted_per_task"] for count in p99},
                **{f"p99_against_{least}": {str(count): ratio(one, p99.get(least)) for count, one in p99.items()}},
                by_processes={f"{name}, {count}": table for (name, count), table in tables.items()},
                histograms=encoded({f"{name}, {count}": one.pickup for (name, count), one in pickups.items()}),
            )
        for (name, count), one in pickups.items():
            run.short(f"{name} pickups, {count} processes", one.done, one.wanted)


def _wasted(put: Put, worked: Sequence[Worked]) -> int:
    """Count claims for nothing since the first put: those by which a worker begins are none of its doing."""
    first = min((called for _, called, _ in put.rows if called), default=0)
    return sum(at > first for one in worked for at in one.empty_at)


def _per(name: str, count: int, of: int) -> dict[str, float]:
    return {name: round(count / of, 3) if of else 0.0}
