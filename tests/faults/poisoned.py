"""A worker whose tasks may be poison: `python -m tests.faults.poisoned URI DATABASE SLOTS LEASE_S`. It ends when the
test does, or as the poison makes it."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any, Final, Literal

import trio

from streamq import Retry, StreamQ, current_task
from tests.chaos import lifeline

BLOCKED_S: Final = 1.2
"""How long a handler gives nobody else a turn: past the shortest lease there is, which its test has."""

BIG_BYTES: Final = 20 << 20
HUNGRY_BYTES: Final = 1 << 60
"""More than any machine has: it raises `MemoryError`."""

MOST: Final = 3
"""Attempts of each task."""

FOR_EVER_S: Final = 1e6

Poison = Literal["exit", "hungry", "big", "block", "spin", "hang"]
RETRY: Final = Retry(max_attempts=MOST, first_s=0.05, cap_s=0.1)


async def poison(kind: Poison) -> str:
    """What must not stop a queue."""
    match kind:
        case "exit" if current_task().attempt == 2:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does to a process that takes all memory
        case "exit":
            os._exit(13)
        case "hungry":
            return "x" * HUNGRY_BYTES
        case "block":
            time.sleep(BLOCKED_S)  # noqa: ASYNC251 - that is the poison
        case "spin":
            while True:
                pass
        case "hang":
            time.sleep(FOR_EVER_S)  # noqa: ASYNC251 - that is the poison
        case "big":
            return "x" * BIG_BYTES
    return kind


async def good(number: int) -> int:
    """What is behind it in the queue."""
    await trio.sleep(0.005)
    return number


async def main(uri: str, database: str, slots: str, lease_s: str) -> None:
    """Work."""
    options: dict[str, Any] = {"lease_s": float(lease_s), "safety_scan_s": None, "retry": RETRY}
    app = StreamQ(uri, database=database, worker_id=str(os.getpid()), **options)
    app.task(queue="q", retry=RETRY)(poison)
    app.task(queue="q", retry=RETRY)(good)
    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work({"q": int(slots)}, task_status=task_status))
        print("ready", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    lifeline.hold()
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4])
