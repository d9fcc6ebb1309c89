"""How soon after they are due delayed tasks run."""

from __future__ import annotations

import random
import time
from typing import Annotated, Any

from cyclopts import Parameter

from streamq.bench.cast import results
from streamq.bench.floor import delaying
from streamq.bench.floor.putting import stored_due
from streamq.bench.latencies import Latencies
from streamq.bench.options import COMMON, Common, Flag
from streamq.bench.ours import putting, working
from streamq.bench.ours.working import Work
from streamq.bench.pickups import soon
from streamq.bench.place import Place
from streamq.bench.result import CONTENDERS, FLOOR, STREAMQ, encoded, figures_of, latency_ratios, ratio
from streamq.bench.rounds import per_s
from streamq.bench.run import Run, running
from streamq.bench.worked import Put, Worked

OTHER = "other"
STORED_PER_S = 4_000
"""How fast delayed tasks are sure to be stored before the first is due."""


def delayed(
    *,
    tasks: Annotated[int, Parameter(help="Delayed tasks of one round.")] = 10_000,
    spread: Annotated[float, Parameter(help="Seconds over which they are due, at random.")] = 20.0,
    at_once: Annotated[bool, Flag, Parameter(help="All are due at the same instant; say --tasks 100000.")] = False,
    rounds: Annotated[int, Parameter(help="Rounds of each contender.")] = 1,
    slots: Annotated[int, Parameter(help="Tasks that the consumer runs at once.")] = 64,
    other_rate: Annotated[float, Parameter(help="With --at-once: puts a second into another queue.")] = 50.0,
    seed: Annotated[int, Parameter(help="Of the random instants.")] = 1,
    common: Common = COMMON,
) -> None:
    """Delayed tasks: from the instant they are due to the handler's first line; never before.

    With --at-once: how many are released a second, and how soon tasks of another queue are picked up meanwhile. The
    floor is one thread that sleeps until the earliest is due and claims all that are. By the wall clock: server and
    bench on one machine.
    """
    options = {"tasks": tasks, "spread": 0.0 if at_once else spread, "at_once": at_once, "rounds": rounds}
    with running("delayed", common, 180.0, options) as run:
        late = {name: Latencies() for name in CONTENDERS}
        released: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        others: dict[str, Latencies] = {"before": Latencies(), "while": Latencies()}
        early = 0
        dice = random.Random(seed)
        for _, order in run.turns(rounds):
            due_in_ms = sorted(0 if at_once else dice.randrange(max(1, round(spread * 1_000))) for _ in range(tasks))
            for name in order:
                rate = other_rate if at_once and name == STREAMQ else 0.0
                with run.place() as place:
                    start_ms, worked = _play(run, name, place, due_in_ms, slots, rate, others)
                rows = [row for row in worked.rows if row[0] < tasks]
                lags = [handled_at - (start_ms + due_in_ms[number]) * 1_000_000 for number, _, _, handled_at in rows]
                late[name].add(lags)
                early += sum(one < 0 for one in lags)
                released[name].append(_released_per_s(worked, start_ms))
                run.short(f"{name} tasks", len(rows), tasks)
        figures = figures_of(late)
        rates = {name: max(one, default=0.0) for name, one in released.items()}
        more: dict[str, Any] = {"early": early}
        if at_once:
            figures = {name: one | {"released_per_s": rates[name]} for name, one in figures.items()}
            more |= {"other_queue": {when: one.figures() for when, one in others.items()}}
        ratios = {"ratio": ratio(rates[STREAMQ], rates[FLOOR])} if at_once else {}
        run.found(latency_ratios(figures) | ratios, figures, **more, histograms=encoded(late))


def _play(
    run: Run,
    name: str,
    place: Place,
    due_in_ms: list[int],
    slots: int,
    other_rate: float,
    others: dict[str, Latencies],
) -> tuple[int, Worked]:
    worked: Worked
    hand, tasks = run.cast.actor(f"{name} consumer"), len(due_in_ms)
    if name == FLOOR:
        hand.begin(delaying.work_delayed, place, tasks)
        hand.wait_ready()
        start_ms = _start_ms(tasks)
        stored_due(place, run.until, [start_ms + one for one in due_in_ms])
        run.until_told([hand], tasks)
        hand.stop()
        (worked,) = results([hand])
        return start_ms, worked
    producer = run.cast.actor("streamq producer")
    hand.begin(working.work, place, Work(slots=slots, wall=True, queues=(OTHER,) if other_rate else ()))
    producer.begin(putting.put_due, place, due_in_ms)
    for one in (hand, producer):
        one.wait_ready()
    count = 0
    if other_rate:
        # Half of the puts into the other queue come before the instant, half after it.
        other = run.cast.actor("streamq other producer")
        count = max(2, round(other_rate * _lead_s(tasks) * 2))
        other.begin(putting.put_at_rate, place, other_rate, count, OTHER, tasks)
        other.wait_ready()
        other.go(soon())
    start_ms = _start_ms(tasks)
    producer.go(start_ms)
    run.short("delayed tasks stored", producer.result().count, tasks)
    run.until_told([hand], tasks + count)
    hand.stop()
    (worked,) = results([hand])
    if other_rate:
        _add_others(worked, run.cast.actor("streamq other producer").result(), tasks, start_ms, others)
    return start_ms, worked


def _lead_s(tasks: int) -> float:
    return 1.0 + tasks / STORED_PER_S


def _start_ms(tasks: int) -> int:
    """The instant of the wall clock from which on tasks are due: when all of them are sure to be stored."""
    return round((time.time() + _lead_s(tasks)) * 1_000)


def _add_others(worked: Worked, put: Put, first: int, start_ms: int, others: dict[str, Latencies]) -> None:
    wall = time.time_ns() - time.monotonic_ns()
    for number, _, _, handled_at in worked.rows:
        if number >= first and put.rows[number - first][0]:
            intended = put.rows[number - first][0] + wall
            others["before" if intended < start_ms * 1_000_000 else "while"].add((handled_at - intended,))


def _released_per_s(worked: Worked, start_ms: int) -> float:
    last = max((at for at, _ in worked.released), default=0)
    return per_s(sum(count for _, count in worked.released), (last - start_ms * 1_000_000) / 1e9)
