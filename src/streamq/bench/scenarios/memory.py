"""Memory over many tasks."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from streamq.bench.cast import wait_any
from streamq.bench.floor import draining, sizes
from streamq.bench.floor import putting as floor_putting
from streamq.bench.options import COMMON, Common
from streamq.bench.ours import putting, working
from streamq.bench.ours.working import Work
from streamq.bench.place import Place
from streamq.bench.process import peak_rss_mb, rss_mb
from streamq.bench.result import CONTENDERS, FLOOR, STREAMQ, Track, ratio
from streamq.bench.run import Run, running

LOOK_S = 0.25
SETTLED_IN = 0.1
"""The part of the tasks after which the memory is taken as that of a process that is warm."""


def memory(
    *,
    tasks: Annotated[int, Parameter(help="Tasks that go through one consumer.")] = 1_000_000,
    put_many: Annotated[int, Parameter(help="Tasks of one put_many.")] = 100_000,
    slots: Annotated[int, Parameter(help="Tasks that the consumer runs at once.")] = 64,
    common: Common = COMMON,
) -> None:
    """Resident memory of a consumer over many tasks, and of a producer over one large put_many.

    `growth_mb` is from a tenth of the tasks to the end: flat is about 0. The floor does the same in plain PyMongo.
    """
    options = {"tasks": tasks, "put_many": put_many, "slots": slots}
    with running("memory", common, 600.0, options) as run:
        figures: dict[str, dict[str, Any]] = {}
        tracks: dict[str, Track] = {}
        for _, order in run.turns(1):
            for name in order:
                with run.place() as place:
                    figures[name] = _put_many(run, name, place, put_many)
                with run.place() as place:
                    found, tracks[name] = _consume(run, name, place, tasks, slots)
                figures[name] |= found
                more: dict[str, Any] = {"tracks": tracks, "track_of": "resident MB of the consumer"}
                run.found(_ratios(figures), figures, **more)


def _ratios(figures: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    if set(figures) < set(CONTENDERS):
        return {"ratio": None, "ratio_put_many": None}
    return {
        "ratio": ratio(figures[STREAMQ]["end_mb"], figures[FLOOR]["end_mb"]),
        "ratio_put_many": ratio(figures[STREAMQ]["put_many_peak_mb"], figures[FLOOR]["put_many_peak_mb"]),
    }


def _put_many(run: Run, name: str, place: Place, count: int) -> dict[str, Any]:
    """One call of streamq's; for the floor inserts one after the other, as its program would do it."""
    producer = run.cast.actor(f"{name} producer")
    producer.begin(
        floor_putting.put_all if name == FLOOR else putting.put_all, place, count, 1_000 if name == FLOOR else count
    )
    producer.wait_ready()
    before_mb = rss_mb(producer.pid)
    producer.go()
    run.short(f"{name} put_many", producer.result().count, count)
    return {
        "put_many_before_mb": before_mb,
        "put_many_peak_mb": peak_rss_mb(producer.pid),
        "put_many_after_mb": rss_mb(producer.pid),
    }


def _consume(run: Run, name: str, place: Place, count: int, slots: int) -> tuple[dict[str, Any], Track]:
    consumer, producer = run.cast.actor(f"{name} consumer"), run.cast.actor(f"{name} producer")
    if name == FLOOR:
        consumer.begin(draining.drain, place, count, sizes.BEST)
        producer.begin(floor_putting.put_all, place, count, sizes.BEST.insert)
    else:
        consumer.begin(working.work, place, Work(count=count, slots=slots))
        producer.begin(putting.put_all, place, count, 1_000)
    for one in (consumer, producer):
        one.wait_ready()
    for one in (consumer, producer):
        one.go()
    samples: list[tuple[int, float]] = []
    began_s = run.budget.took_s
    track: Track = []
    while not consumer.look() and run.budget.left_s:
        wait_any([consumer], min(LOOK_S, run.budget.left_s))
        samples.append((consumer.told or 0, rss_mb(consumer.pid)))
        track.append((round(run.budget.took_s - began_s, 2), samples[-1][1]))
    samples.append((count, rss_mb(consumer.pid)))
    consumer.stop()
    worked = consumer.result()
    producer.stop()
    producer.result()
    run.short(f"{name} tasks", worked.settled, count)
    warm_mb = next((mb for done, mb in samples if done >= count * SETTLED_IN), samples[-1][1])
    end_mb = samples[-1][1]
    found = {
        "warm_mb": warm_mb,
        "end_mb": end_mb,
        "peak_mb": peak_rss_mb(consumer.pid),
        "growth_mb": round(end_mb - warm_mb, 1),
        "tasks": worked.settled,
    }
    run.cast.dismiss(consumer, producer)
    return found, track
