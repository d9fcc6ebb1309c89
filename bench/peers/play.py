"""The three scenarios, played by any contender."""

from __future__ import annotations

import time

from bench.peers.contender import Contender
from bench.peers.cpu import cpu_s
from bench.peers.ground import Ground
from bench.peers.process import Program
from bench.peers.result import Latency, Rate, quantiles_ms

WARM_UP = 50
"""Tasks at the start of a latency round that are run and not counted: connections, caches, interpreters, compilers."""

PATIENCE = 3.0
"""A consumer that takes so many times as long as the round was to take is stopped; what it did counts."""

LEAST_S = 5.0
"""Of its patience: whatever a short round was to take."""


def latency(contender: Contender, ground: Ground, seconds: float, rate: float) -> tuple[list[int], Latency]:
    """Put at a rate to a consumer that waits; return pickup latencies in ns, and their summary."""
    count = WARM_UP + max(1, round(seconds * rate))
    limit_s = count / rate * PATIENCE + LEAST_S
    with ground.place(contender) as place:
        orders = {**place, "scenario": "latency", "count": count, "rate": rate, "seconds": limit_s}
        with (
            Program(contender, role="consume", waits=True, pickups=True, **orders) as consumer,
            Program(contender, role="put_at_rate", **orders) as producer,
        ):
            consumer.wait_ready()
            producer.wait_ready()
            began, server = time.monotonic(), _server_cpu(ground)
            producer.go()
            producer.result(limit_s)
            found = consumer.result(limit_s + LEAST_S)
            took = time.monotonic() - began
            after = _server_cpu(ground)
    pickups: list[int] = found["pickups"][WARM_UP:]
    if not pickups:
        raise RuntimeError(f"{contender.name} ran no task within {limit_s:g} s")
    server_cores = None if server is None or after is None else round((after - server) / took, 3)
    consumer_cores = round(found["cpu_s"] / took, 3)
    return pickups, Latency(len(pickups), quantiles_ms(pickups), consumer_cores, server_cores)


def _server_cpu(ground: Ground) -> float | None:
    return None if ground.pid is None else cpu_s(ground.pid)


def throughput(contender: Contender, ground: Ground, seconds: float, tasks: int | None) -> Rate:
    """Put as fast as it goes to a consumer that waits: from the first put's call until all is settled."""
    count = tasks or sized(contender.throughput_per_s, seconds)
    limit_s = seconds * PATIENCE + LEAST_S
    with ground.place(contender) as place:
        orders = {**place, "scenario": "throughput", "count": count, "seconds": limit_s}
        with (
            Program(contender, role="consume", waits=True, **orders) as consumer,
            Program(contender, role="put_many", **orders) as producer,
        ):
            consumer.wait_ready()
            producer.wait_ready()
            producer.go()
            began = producer.result(limit_s)["began"]
            found = consumer.result(limit_s + LEAST_S)
    return _rate(contender, count, found["handled"], found["settled"] - began)


def drain(contender: Contender, ground: Ground, seconds: float, tasks: int | None) -> Rate:
    """Let one consumer work off what waits: from its first handler's first line until all is settled.

    The start of a process and of a worker's machinery is no part of it: a longer drain would hide it.
    """
    count = tasks or sized(contender.drain_per_s, seconds)
    limit_s = seconds * PATIENCE + LEAST_S
    with ground.place(contender) as place:
        orders = {**place, "scenario": "drain", "count": count, "seconds": limit_s}
        with Program(contender, role="put_many", **orders) as producer:
            producer.wait_ready()
            producer.go()
            producer.result(limit_s)
        ground.know(place)
        with Program(contender, role="consume", waits=False, **orders) as consumer:
            found = consumer.result(limit_s + 2 * LEAST_S)
    return _rate(contender, count, found["handled"], found["settled"] - found["first"])


def sized(per_s: int, seconds: float) -> int:
    """Return the tasks of a round that is to take `seconds`."""
    return max(100, round(per_s * seconds / 100) * 100)


def _rate(contender: Contender, count: int, handled: int, ns: int) -> Rate:
    if not handled:
        raise RuntimeError(f"{contender.name} ran none of {count:,} tasks in time")
    return Rate(count, round(handled / (ns / 1e9), 1), handled == count)
