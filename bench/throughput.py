"""Throughput from put to settled: one producer process putting in 1,000s, one consumer process with a no-op handler;
streamq and the plain-PyMongo floor interleaved on the same server.

    .venv/bin/python bench/throughput.py [--uri URI] [--rounds 3] [--tasks 50000]

The last line is JSON: `ratio` (streamq / floor, of the medians) beside the absolute figures in tasks per second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import floor, ours
from bench.machine import machine
from bench.rounds import Role, place, server


def play(contender: ModuleType, uri: str, count: int) -> float:
    """Play one round; return tasks per second, from before the first put until all are settled.

    A first small round warms the server's collection; starting the processes is part of neither contender's work, so
    both begin when both processes are up (the producer's first insert starts the clock).
    """
    with place(uri) as here:
        consumer = Role(timed, contender.drain, here, count)
        producer = Role(timed, contender.put_in_thousands, here, count)
        try:
            began, _ = producer.result()
            _, ended = consumer.result()
        finally:
            consumer.end()
            producer.end()
    rate: float = count / (ended - began)
    return rate


def timed(function: object, *args: object) -> tuple[float, float]:
    """Call and return when it began and ended, by the clock all processes of a machine share."""
    assert callable(function)
    began = time.monotonic()
    function(*args)
    return began, time.monotonic()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="throughput, streamq against plain PyMongo")
    parser.add_argument("--uri")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=50_000)
    asked = parser.parse_args()
    rates: dict[str, list[float]] = {"floor": [], "streamq": []}
    with server(asked.uri) as uri:
        about = machine(uri)
        for number in range(asked.rounds):
            for name, contender in (("floor", floor), ("streamq", ours)):
                rates[name].append(play(contender, uri, asked.tasks))
                print(f"round {number + 1} {name:8} {rates[name][-1]:,.0f} tasks/s", flush=True)
    print("machine", json.dumps(about))
    medians = {f"{name}_per_s": round(statistics.median(got)) for name, got in rates.items()}
    print(json.dumps({"ratio": round(medians["streamq_per_s"] / medians["floor_per_s"], 3), **medians}))


if __name__ == "__main__":
    main()
