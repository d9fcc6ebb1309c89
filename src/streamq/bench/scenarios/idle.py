"""What idle workers cost."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

from cyclopts import Parameter

from streamq.bench.cast import Actor, results
from streamq.bench.floor import idling as floor_idling
from streamq.bench.options import COMMON, Common
from streamq.bench.ours import idling
from streamq.bench.place import Place, server_counts
from streamq.bench.process import cpu_s, rss_mb, wait_quiet
from streamq.bench.result import FLOOR, STREAMQ, ratio
from streamq.bench.run import Run, running

START_S: Final = 3.0
"""How much longer the run may take for each worker and contender, where all start at once."""

SETTLE_S: Final = 20.0
"""How long is waited at most for all workers to be through with their start: each tells all others that it is there."""


def idle(
    *,
    seconds: Annotated[float, Parameter(help="How long each contender is looked at.")] = 60.0,
    handlers: Annotated[int, Parameter(help="Handlers of a worker, each with a queue of its own.")] = 100,
    workers: Annotated[int, Parameter(help="Processes that idle at once.")] = 1,
    common: Common = COMMON,
) -> None:
    """Idle cost of workers: commands a second (by the driver's own events; its monitoring of the server is not among
    them), CPU and memory of one (from /proc), and the CPU that mongod takes meanwhile for all of them, if it
    runs on this machine.

    The floor is as many processes of plain PyMongo with an open change stream each; it idles first.
    """
    options = {"seconds": seconds, "handlers": handlers, "workers": workers}
    with running("idle", common, 2 * seconds + 60.0 + 2 * START_S * workers, options) as run, run.place() as place:
        run.bar.begin("idle", 2)
        figures: dict[str, dict[str, Any]] = {}
        more: dict[str, dict[str, Any]] = {"commands": {}, "server_per_s": {}, "lasted_s": {}}
        for name in (FLOOR, STREAMQ):
            hands = run.cast.actors(f"{name} worker", workers)
            for hand in hands:
                if name == FLOOR:
                    hand.begin(floor_idling.idle, place)
                else:
                    hand.begin(idling.idle, place, handlers)
            for hand in hands:
                hand.wait_ready()
            figures[name], seen = _looked_at(run, place, hands, seconds)
            for what, value in seen.items():
                more[what][name] = value
            run.cast.dismiss(*hands)
            run.bar.step()
        ratios = {
            "ratio": ratio(figures[STREAMQ]["commands_per_s"], figures[FLOOR]["commands_per_s"]),
            "ratio_rss": ratio(figures[STREAMQ]["rss_mb"], figures[FLOOR]["rss_mb"]),
        }
        run.found(ratios, figures, **more)


def _looked_at(run: Run, place: Place, hands: list[Actor], seconds: float) -> tuple[dict[str, float], dict[str, Any]]:
    """Let them idle; return the figures of one on average and of mongod, and what was sent by kind."""
    pids = [hand.pid for hand in hands]
    wait_quiet(pids, min(SETTLE_S, run.budget.left_s / 8))
    for hand in hands:
        hand.go()
    counted, mongod = server_counts(place.uri)
    began_at, used_s = time.monotonic(), sum(map(cpu_s, pids))
    server_s = cpu_s(mongod) if mongod is not None else 0.0
    time.sleep(min(seconds, run.budget.left_s))
    lasted_s = time.monotonic() - began_at
    used_s = sum(map(cpu_s, pids)) - used_s
    server_s = cpu_s(mongod) - server_s if mongod is not None else 0.0
    after, _ = server_counts(place.uri)
    run.short("seconds", round(lasted_s), round(seconds))
    figures = {
        "cpu_percent": round(used_s / len(hands) / lasted_s * 100, 3),
        "rss_mb": round(sum(map(rss_mb, pids)) / len(hands), 1),
    }
    if mongod is not None:
        figures["mongod_cpu_percent"] = round(server_s / lasted_s * 100, 2)
    for hand in hands:
        hand.stop()
    commands: dict[str, int] = {}
    for sent in results(hands):
        for what, count in sent.items():
            commands[what] = commands.get(what, 0) + count
    figures["commands_per_s"] = round(sum(commands.values()) / len(hands) / lasted_s, 3)
    per_s = {what: round((count - counted[what]) / lasted_s, 2) for what, count in after.items()}
    return figures, {"commands": commands, "server_per_s": per_s, "lasted_s": round(lasted_s, 1)}
