"""What an idle worker costs."""

from __future__ import annotations

import time
from typing import Annotated, Any

from cyclopts import Parameter

from streamq.bench.floor import idling as floor_idling
from streamq.bench.options import COMMON, Common
from streamq.bench.ours import idling
from streamq.bench.process import cpu_s, rss_mb
from streamq.bench.result import FLOOR, STREAMQ, ratio
from streamq.bench.run import running


def idle(
    *,
    seconds: Annotated[float, Parameter(help="How long it is looked at.")] = 60.0,
    handlers: Annotated[int, Parameter(help="Handlers of the worker, each with a queue of its own.")] = 100,
    common: Common = COMMON,
) -> None:
    """Idle cost of one worker: commands a second (by the driver's own events; its monitoring of the server is not among
    them), CPU and memory (from /proc).

    The floor is a process of plain PyMongo with an open change stream. Both idle at the same time.
    """
    with (
        running("idle", common, seconds + 60.0, {"seconds": seconds, "handlers": handlers}) as run,
        run.place() as place,
    ):
        hands = {name: run.cast.actor(f"{name} worker") for name in (FLOOR, STREAMQ)}
        hands[FLOOR].begin(floor_idling.idle, place)
        hands[STREAMQ].begin(idling.idle, place, handlers)
        for hand in hands.values():
            hand.wait_ready()
        run.bar.begin("idle", 1)
        for hand in hands.values():
            hand.go()
        began_at, used_s = time.monotonic(), {name: cpu_s(hand.pid) for name, hand in hands.items()}
        time.sleep(min(seconds, run.budget.left_s))
        lasted_s = time.monotonic() - began_at
        run.short("seconds", round(lasted_s), round(seconds))
        figures: dict[str, dict[str, Any]] = {}
        for name, hand in hands.items():
            figures[name] = {
                "cpu_percent": round((cpu_s(hand.pid) - used_s[name]) / lasted_s * 100, 3),
                "rss_mb": rss_mb(hand.pid),
            }
        commands: dict[str, dict[str, int]] = {}
        for name, hand in hands.items():
            hand.stop()
            commands[name] = hand.result()
            figures[name]["commands_per_s"] = round(sum(commands[name].values()) / lasted_s, 3)
        ratios = {
            "ratio": ratio(figures[STREAMQ]["commands_per_s"], figures[FLOOR]["commands_per_s"]),
            "ratio_rss": ratio(figures[STREAMQ]["rss_mb"], figures[FLOOR]["rss_mb"]),
        }
        run.found(ratios, figures, commands=commands, lasted_s=round(lasted_s, 1))
