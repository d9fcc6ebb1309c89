"""A worker process for the acceptance tests: `python hand.py MODE DATABASE LOG`, with the server in STREAMQ_URI.

It says `ready` on its standard output once no later put can be missed, and writes a line to LOG for what its tasks do,
each in one write, so that a kill leaves whole lines. SIGTERM ends it in good order, as SIGINT does.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from streamq import LeaseLost, Rate, StreamQ, Tasks, current_task

MODE, DATABASE, LOG = sys.argv[1:4]
URI = os.environ["STREAMQ_URI"]


def note(*words: object) -> None:
    """Append a line to the log at once."""
    line = " ".join(map(str, (*words, os.getpid()))) + "\n"
    descriptor = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def ready() -> None:
    print("ready", flush=True)


# --- modes -----------------------------------------------------------------------------------------------------


async def stuck_at_first(lease_s: float, own_lease_s: float | None = None) -> None:
    """Run 50 at once; a first attempt never ends, a later one does at once. `own_lease_s`: the handler's own."""
    app = StreamQ(URI, database=DATABASE, lease_s=lease_s, safety_scan_s=None)

    @app.task(lease_s=own_lease_s)
    async def job(number: int) -> str:
        note("began", number, current_task().attempt)
        try:
            if current_task().attempt == 1:
                await trio.sleep_forever()
        except (trio.Cancelled, KeyboardInterrupt):  # Ctrl-C reaches the one that is running just then
            note("cancelled", number)
            raise
        return f"by {os.getpid()}"

    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=50, task_status=task_status))
        ready()


async def limited(lease_s: float) -> None:
    """Run within a rate and a number of running tasks, both of the queue as a whole; the first attempt of `stuck` never
    ends."""
    app = StreamQ(URI, database=DATABASE, lease_s=lease_s, safety_scan_s=None)
    app.limit("default", rate=Rate(100, per_s=1, burst=10), running=4)

    @app.task
    async def job(number: int, stuck: bool) -> None:
        note("began", time.monotonic_ns(), number)
        if stuck and current_task().attempt == 1:
            await trio.sleep_forever()
        note("ended", time.monotonic_ns(), number)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        ready()


async def consume() -> None:
    """Two consumers that take what they can get, with four hands each."""
    app = StreamQ(URI, database=DATABASE, safety_scan_s=None)

    async def run(tasks: Tasks) -> None:
        async for task in tasks:
            async with task:
                note("ran", task.payload)

    async def consumer(prefetch: int, *, task_status: trio.TaskStatus[None]) -> None:
        async with app.queue("race").consume(prefetch=prefetch) as tasks, trio.open_nursery() as hands:
            task_status.started()
            for _ in range(4):
                hands.start_soon(run, tasks)

    async with app, trio.open_nursery() as nursery:
        for prefetch in (4, 32):
            await nursery.start(consumer, prefetch)
        ready()


def settle_late() -> None:
    """Claim all with a short lease, and settle only when told to on standard input."""
    app = StreamQ(URI, database=DATABASE)
    tasks = app.blocking.queue("default").claim_many(1_000, lease_s=1)
    ready()
    sys.stdin.readline()
    for task in tasks:
        try:
            task.succeed("stale")
        except LeaseLost:
            note("LeaseLost")
    app.close()


async def until_terminated(work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` until it ends or SIGTERM comes."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            await work()


def main() -> None:
    """Run the mode."""
    try:
        match MODE:
            case "short-lease":
                trio.run(until_terminated, partial(stuck_at_first, 2.0))
            case "own-lease":
                trio.run(until_terminated, partial(stuck_at_first, 3_600.0, 2.0))
            case "long-lease":
                trio.run(until_terminated, partial(stuck_at_first, 3_600.0))
            case "limited":
                trio.run(until_terminated, partial(limited, 2.0))
            case "limited-long-lease":
                trio.run(until_terminated, partial(limited, 3_600.0))
            case "consume":
                trio.run(until_terminated, consume)
            case "settle-late":
                settle_late()
            case _:
                sys.exit(f"{Path(__file__).name}: no mode {MODE!r}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
