"""What a queue's program hears and says: the protocol between the run and its processes. Standard library only.

    run ── argv[1], a JSON order ──▶ program       {"role": "consume", "count": ..., "rate": ..., ...}; $PEERS_URI
        ◀── JSON lines on stdout ──                {"ready": true}, then the result
        ── a line on stdin ("go") ─▶

Instants are CLOCK_MONOTONIC in nanoseconds, which all processes of a machine share (Node: `process.hrtime.bigint()`).

| role | what the program does | result |
| --- | --- | --- |
| about | says what it is | `versions`, `settings`, `durability`, `wake` |
| prepare | makes the schema | nothing |
| put_at_rate | ready; go; puts `count` tasks one by one at `rate` a second, open loop | `began`, `ended` |
| put_many | ready; go; puts `count` tasks, as fast as its documented ways allow | `began`, `ended` |
| consume | runs handlers until `count` are settled or `seconds` over | `first settled handled cpu_s pickups` |

A consumer with `"waits": true` says ready when it would hear of a put; one without finds its tasks waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.metadata import version
from typing import Any

BATCH = 1_000
"""Tasks of one call, where a queue takes many at once."""

LOOK_S = 0.002
"""How often a consumer whose handlers are done asks whether all is settled. Not before: a question costs the server."""

Order = dict[str, Any]


def order() -> Order:
    """Return what this process was started for."""
    heard: Order = json.loads(sys.argv[1])
    return {"uri": os.environ["PEERS_URI"], **heard} if "PEERS_URI" in os.environ else heard


def say(**words: Any) -> None:
    """Tell the run."""
    print(json.dumps(words), flush=True)


def wait_go() -> None:
    """Say that the connection stands, and wait for the run's word."""
    say(ready=True)
    sys.stdin.readline()


def about(*packages: str, settings: str, durability: str, wake: str) -> None:
    """Say what is measured here."""
    versions = {package: version(package) for package in packages}
    say(versions=versions, settings=settings, durability=durability, wake=wake)


def ticks(rate: float, count: int) -> Iterator[tuple[int, int]]:
    """Yield numbers with the instants they count from, in ns.

    A put that is held up by the one before it counts from when it was due: else a stall would show in one sample, and
    not in all that it delayed (coordinated omission).
    """
    began = time.monotonic_ns()
    for number in range(count):
        due = began + round(number / rate * 1e9)
        ahead = (due - time.monotonic_ns()) / 1e9
        if ahead > 0:
            time.sleep(ahead)
        yield number, due if ahead <= 0 and number else time.monotonic_ns()


async def ticks_asyncio(rate: float, count: int) -> AsyncIterator[tuple[int, int]]:
    """Yield the same on an asyncio loop."""
    began = time.monotonic_ns()
    for number in range(count):
        due = began + round(number / rate * 1e9)
        ahead = (due - time.monotonic_ns()) / 1e9
        if ahead > 0:
            await asyncio.sleep(ahead)
        yield number, due if ahead <= 0 and number else time.monotonic_ns()


async def put_open_loop(put: Callable[[int, int], Awaitable[object]], rate: float, count: int) -> None:
    """Put at a rate; a put that is late does not hold up the next."""
    async with asyncio.TaskGroup() as group:
        async for number, at in ticks_asyncio(rate, count):
            group.create_task(_put(put, number, at))


async def _put(put: Callable[[int, int], Awaitable[object]], number: int, at: int) -> None:
    await put(number, at)


def batches(count: int, size: int = BATCH) -> Iterator[range]:
    """Cut the numbers of `count` tasks into batches."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


class Tally:
    """What the handlers of a consumer note: when the first ran, how long each task took to be picked up."""

    def __init__(self, heard: Order) -> None:
        self.count: int = heard["count"]
        self.pickups: list[int] = []
        self.first = 0
        self._listed: bool = heard.get("pickups", False)
        self._until = time.monotonic_ns() + round(heard["seconds"] * 1e9)
        self.on_all: Callable[[], object] = lambda: None
        self._cpu_s = 0.0

    def note(self, at: int) -> bool:
        """Note a handler's first line; return whether it is the last one of the round."""
        now = time.monotonic_ns()
        if not self.first:
            self.first = now
        self.pickups.append(now - at)
        last = len(self.pickups) >= self.count
        if last:
            self.on_all()
        return last

    def listening(self) -> None:
        """Tell the run that this consumer would hear of a put."""
        self._cpu_s = time.process_time()
        say(ready=True)

    @property
    def left_s(self) -> float:
        """The time that is left to this consumer."""
        left_ns: int = self._until - time.monotonic_ns()
        return left_ns / 1e9

    @property
    def is_over(self) -> bool:
        """Whether all were handled, or the time is over."""
        return len(self.pickups) >= self.count or self.left_s <= 0

    def say(self) -> None:
        """Tell the run: now everything that was handled is settled."""
        listed = {"pickups": self.pickups} if self._listed else {}
        settled = time.monotonic_ns()
        cpu_s = time.process_time() - self._cpu_s
        say(first=self.first, settled=settled, handled=min(len(self.pickups), self.count), cpu_s=cpu_s, **listed)

    # --- for consumers on asyncio ------------------------------------------------------------------------------------

    async def wait_asyncio(self, none_left: Callable[[], Awaitable[bool]]) -> None:
        """Wait until all are handled and settled, or the time is over; then tell the run."""
        handled = asyncio.Event()
        self.on_all = handled.set
        if len(self.pickups) >= self.count:
            handled.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self.left_s)):
                await handled.wait()
                while not await none_left():  # noqa: ASYNC110 - the server is asked
                    await asyncio.sleep(LOOK_S)
        self.say()


async def wait_probe(put: Callable[[], Awaitable[object]], seen: asyncio.Event) -> None:
    """Put a task of one's own and wait until it runs: then this consumer hears of puts."""
    await put()
    async with asyncio.timeout(30):
        await seen.wait()


def play(
    *,
    about: Callable[[], None],
    prepare: Callable[[Order], None],
    put_at_rate: Callable[[Order], None],
    put_many: Callable[[Order], None],
    consume: Callable[[Order], None],
) -> None:
    """Do what this process was started for."""
    heard = order()
    match heard["role"]:
        case "about":
            about()
        case "prepare":
            prepare(heard)
        case "put_at_rate" | "put_many" as role:
            {"put_at_rate": put_at_rate, "put_many": put_many}[role](heard)
        case "consume":
            consume(heard)
        case unknown:
            raise SystemExit(f"unknown role {unknown!r}")
