"""Rounds that several scenarios play: pickups of what is put at a rate, and draining of what waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from streamq.bench.cast import Actor, results
from streamq.bench.floor import draining, picking, serving
from streamq.bench.floor import putting as floor_putting
from streamq.bench.floor.sizes import Sizes
from streamq.bench.ours import putting, working
from streamq.bench.ours.working import Work
from streamq.bench.pickups import soon
from streamq.bench.place import Place
from streamq.bench.process import wait_quiet
from streamq.bench.result import FLOOR
from streamq.bench.run import Run
from streamq.bench.worked import Put, Worked
from streamq.core.notice import WakeBy

SETTLE_S: Final = 5.0
"""How long a round waits at most for its processes to be through with their start, which holds up the first puts."""

Begin = Callable[[Actor, Place, int], None]
"""Lets a process consume so many tasks of a place."""


def pick_one_by_one(name: str, slots: int) -> Begin:
    """Each task is picked up as it comes. The floor: one thread, a change stream, then `find_one_and_update` by id."""

    def begin(actor: Actor, place: Place, count: int) -> None:
        if name == FLOOR:
            actor.begin(picking.work_one_by_one, place, count)
        else:
            actor.begin(working.work, place, Work(slots=slots, each=True))

    return begin


def pick_in_groups(name: str, slots: int, handler_s: float) -> Begin:
    """Tasks are picked up in groups of what has come, and run for a while. The floor: threads."""

    def begin(actor: Actor, place: Place, count: int) -> None:
        if name == FLOOR:
            actor.begin(serving.work_in_groups, place, count, slots, handler_s)
        else:
            actor.begin(working.work, place, Work(slots=slots, handler_s=handler_s, each=True))

    return begin


def play_pickups(
    run: Run, name: str, begin: Begin, rate: float, count: int, consumers: int = 1, wake: WakeBy = "stream"
) -> tuple[Put, list[Worked]]:
    """Put `count` tasks at `rate` in one process, while so many others consume; all of them idle when it begins."""
    with run.place(wake) as place:
        hands = run.cast.actors(f"{name} consumer", consumers)
        for hand in hands:
            begin(hand, place, count)
        producer = run.cast.actor(f"{name} producer")
        producer.begin(floor_putting.put_at_rate if name == FLOOR else putting.put_at_rate, place, rate, count)
        for one in (producer, *hands):
            one.wait_ready()
        wait_quiet([one.pid for one in (producer, *hands)], min(SETTLE_S, run.budget.left_s / 8))
        producer.go(soon())
        put: Put = producer.result()
        run.until_told(hands, put.count)
        for hand in hands:
            hand.stop()
        return put, results(hands)


def play_drain(
    run: Run, name: str, place: Place, count: int, hands: Sequence[Actor], sizes: Sizes, asked: Work
) -> tuple[float, list[Worked]]:
    """Drain `count` waiting tasks by these processes, with handlers that do nothing; return the seconds from the word
    to begin to the last settlement, and what each did."""
    for hand in hands:
        if name == FLOOR:
            hand.begin(draining.drain, place, count, sizes)
        else:
            hand.begin(working.work, place, asked)
    for hand in hands:
        hand.wait_ready()
    began_at = time.monotonic_ns()
    for hand in hands:
        hand.go()
    run.until_told(hands, count)
    for hand in hands:
        hand.stop()
    worked: list[Worked] = results(hands)
    return elapsed_s(began_at, worked), worked


def elapsed_s(began_at: int, worked: Sequence[Worked]) -> float:
    """Seconds from an instant to the last settlement; 0 when there was none."""
    ended_at = max((one.last_settled_at for one in worked), default=0)
    return max(0.0, (ended_at - began_at) / 1e9)


def per_s(count: int, seconds: float) -> float:
    """So many a second; 0 when there were none."""
    return round(count / seconds, 1) if seconds > 0 else 0.0


def settled(worked: Sequence[Worked]) -> int:
    """How many tasks they settled together."""
    return sum(one.settled for one in worked)


def total(worked: Sequence[Worked], what: str) -> Any:
    """Add up one of their figures."""
    return sum(getattr(one, what) for one in worked)
