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
PROBE = 2_000
"""Delayed tasks that are stored to learn how long storing takes here."""

LEAD = 2.5
"""How many times as long as that tells the tasks have to be stored before the first is due: puts check and encode them
besides, and a machine may be slower a moment later."""


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

    With --at-once: how many leave `delayed` a second, by when the last of them has (released, or claimed at once; when
    they have been run is another matter, and not waited for), and how soon tasks of another queue are picked up before
    and meanwhile. The floor is one thread that sleeps until the earliest is due and claims all that are. By the wall
    clock: server and bench on one machine.
    """
    options = {"tasks": tasks, "spread": 0.0 if at_once else spread, "at_once": at_once, "rounds": rounds}
    with running("delayed", common, 180.0, options) as run:
        late = {name: Latencies() for name in CONTENDERS}
        released: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        others: dict[str, Latencies] = {"before": Latencies(), "while": Latencies()}
        early = 0
        dice = random.Random(seed)
        lead_s = _lead_s(run, tasks)
        for _, order in run.turns(rounds):
            due_in_ms = sorted(0 if at_once else dice.randrange(max(1, round(spread * 1_000))) for _ in range(tasks))
            for name in order:
                rate = other_rate if at_once and name == STREAMQ else 0.0
                with run.place() as place:
                    start_ms, worked = _play(run, name, place, due_in_ms, slots, rate, others, lead_s)
                rows = [row for row in worked.rows if row[0] < tasks]
                lags = [handled_at - (start_ms + due_in_ms[number]) * 1_000_000 for number, _, _, handled_at in rows]
                late[name].add(lags)
                early += sum(one < 0 for one in lags)
                released[name].append(_released_per_s(worked, start_ms))
                done = sum(count for _, count in worked.released) if at_once else len(rows)
                run.short(f"{name} tasks", done, tasks)
        # Those that have been run when the last is released are some of them.
        figures = {name: {} for name in CONTENDERS} if at_once else figures_of(late)
        rates = {name: max(one, default=0.0) for name, one in released.items()}
        more: dict[str, Any] = {"early": early}
        if at_once:
            figures = {name: one | {"released_per_s": rates[name]} for name, one in figures.items()}
            more |= {"other_queue": {when: one.figures() for when, one in others.items()}}
        ratios = {"ratio": ratio(rates[STREAMQ], rates[FLOOR])} if at_once else {}
        ratios = ratios if at_once else latency_ratios(figures)
        run.found(ratios, figures, **more, histograms={} if at_once else encoded(late))


def _play(
    run: Run,
    name: str,
    place: Place,
    due_in_ms: list[int],
    slots: int,
    other_rate: float,
    others: dict[str, Latencies],
    lead_s: float,
) -> tuple[int, Worked]:
    worked: Worked
    hand, tasks = run.cast.actor(f"{name} consumer"), len(due_in_ms)
    if name == FLOOR:
        hand.begin(delaying.work_delayed, place, tasks)
        hand.wait_ready()
        start_ms = _start_ms(lead_s)
        stored_due(place, run.until, [start_ms + one for one in due_in_ms])
        _in_time(run, start_ms)
        run.until_told([hand], tasks)
        hand.stop()
        (worked,) = results([hand])
        return start_ms, worked
    producer = run.cast.actor("streamq producer")
    at_once = not any(due_in_ms)
    asked = Work(slots=slots, wall=True, queues=(OTHER,) if other_rate else (), tells_released=at_once)
    producer.begin(putting.put_due, place, due_in_ms)
    producer.wait_ready()
    if not at_once:
        hand.begin(working.work, place, asked)
        hand.wait_ready()
    other = run.cast.actor("streamq other producer") if other_rate else None
    if other is not None:
        # Until it is stopped, when the last is released.
        other.begin(putting.put_at_rate, place, other_rate, round(other_rate * run.budget.left_s), OTHER, tasks)
        other.wait_ready()
    start_ms = _start_ms(lead_s)
    producer.go(start_ms)
    run.short("delayed tasks stored", producer.result().count, tasks)
    if at_once:
        # It comes when all are stored: what hearing of so many puts costs it is another figure.
        hand.begin(working.work, place, asked)
        hand.wait_ready()
    _in_time(run, start_ms)
    if other is not None:
        other.go(soon())
    run.until_told([hand], tasks)
    for one in (hand,) if other is None else (other, hand):
        one.stop()
    (worked,) = results([hand])
    if other is not None:
        _add_others(worked, other.result(), tasks, start_ms, others)
    return start_ms, worked


def _lead_s(run: Run, tasks: int) -> float:
    """How long before the first is due the storing of all of them has to begin."""
    with run.place() as place:
        ahead_ms = round(time.time() * 1_000) + 86_400_000
        began_at = time.monotonic()
        stored_due(place, run.until, [ahead_ms] * PROBE)
        return 1.0 + LEAD * tasks / PROBE * (time.monotonic() - began_at)


def _start_ms(lead_s: float) -> int:
    """The instant of the wall clock from which on tasks are due."""
    return round((time.time() + lead_s) * 1_000)


def _in_time(run: Run, start_ms: int) -> None:
    late_s = time.time() - start_ms / 1e3
    if late_s > 0:
        run.undone(f"all was to be ready before the first task was due, and was {late_s:.1f} s after it")


def _add_others(worked: Worked, put: Put, first: int, start_ms: int, others: dict[str, Latencies]) -> None:
    wall = time.time_ns() - time.monotonic_ns()
    begun, ended = start_ms * 1_000_000, _last_released_at(worked)
    for number, _, _, handled_at in worked.rows:
        if number >= first and put.rows[number - first][0]:
            intended = put.rows[number - first][0] + wall
            if intended < ended:
                others["before" if intended < begun else "while"].add((handled_at - intended,))


def _last_released_at(worked: Worked) -> int:
    return max((at for at, _ in worked.released), default=0)


def _released_per_s(worked: Worked, start_ms: int) -> float:
    count = sum(count for _, count in worked.released)
    return per_s(count, (_last_released_at(worked) - start_ms * 1_000_000) / 1e9)
