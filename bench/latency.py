"""Pickup latency at idle: open loop, 100 puts a second, one producer process and one consumer process, from the put's
call to the handler's first line; streamq and the plain-PyMongo floor interleaved on the same server.

    .venv/bin/python bench/latency.py [--uri URI] [--rounds 14] [--seconds 3] [--rate 100]

The last line is JSON: `ratio_p50` and `ratio_p99` (streamq / floor) beside the absolute figures in ms.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import floor, ours
from bench.machine import machine
from bench.rounds import SPAWN, Role, place, server, wait_ready

WARM_UP = 50
"""Tasks at the start of a round that are run and not counted: connections, caches, the interpreter's own warm-up."""


def play(contender: ModuleType, uri: str, rate: float, count: int) -> list[int]:
    """Play one round; return its pickup latencies in ns."""
    with place(uri) as here:
        ready = SPAWN.Event()
        consumer = Role(contender.consume_one_by_one, here, count + WARM_UP, ready)
        try:
            wait_ready(ready)
            Role(contender.put_at_rate, here, rate, count + WARM_UP).result()
            pickups: list[int] = consumer.result()
        finally:
            consumer.end()
    return pickups[WARM_UP:]


def quantile_ms(pickups: list[int], share: float) -> float:
    """Return the latency that `share` of the pickups did not exceed, in ms."""
    ordered = sorted(pickups)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1e6, 3)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="pickup latency, streamq against plain PyMongo")
    parser.add_argument("--uri")
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=100.0)
    asked = parser.parse_args()
    pickups: dict[str, list[int]] = {"floor": [], "streamq": []}
    with server(asked.uri) as uri:
        about = machine(uri)
        for number in range(asked.rounds):
            for name, contender in (("floor", floor), ("streamq", ours)):
                got = play(contender, uri, asked.rate, int(asked.rate * asked.seconds))
                pickups[name] += got
                shown = " ".join(f"p{share:g}={quantile_ms(got, share / 100)}" for share in (50, 90, 99))
                print(f"round {number + 1} {name:8} {shown} ms", flush=True)
    print("machine", json.dumps(about))
    figures: dict[str, float | int] = {}
    for share in (50, 99):
        for name, got in pickups.items():
            figures[f"{name}_p{share}_ms"] = quantile_ms(got, share / 100)
        figures[f"ratio_p{share}"] = round(figures[f"streamq_p{share}_ms"] / figures[f"floor_p{share}_ms"], 3)
    figures["samples_each"] = len(pickups["streamq"])
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
