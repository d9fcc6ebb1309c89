"""A program in a flood: `python -m tests.faults.flooded ROLE URI DATABASE`. It writes to standard output what it does,
a line of JSON each, with its resident memory."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from streamq import StreamQ
from tests.chaos import lifeline

SLOTS: Final = 4
WORK_S: Final = 0.02
"""So that a worker drains 200 a second at most."""

PUTS_PER_S: Final = 3 * SLOTS / WORK_S
BATCH: Final = 30
SAY_S: Final = 0.25
PAGE_MB: Final = os.sysconf("SC_PAGE_SIZE") / 2**20
PAYLOAD: Final = "x" * 2_000


def rss_mb() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MB


def say(what: str, **more: Any) -> None:
    """Write one line."""
    print(msgspec.json.encode({"what": what, "rss_mb": rss_mb(), **more}).decode(), flush=True)


class Flooded:
    """One process."""

    def __init__(self, uri: str, database: str) -> None:
        self._app = StreamQ(uri, database=database, keep_s=0.0)
        self._work = self._app.task(queue="q", name="work")(self._run)
        self._done = 0

    async def _run(self, text: str, takes_s: float) -> None:
        await trio.sleep(takes_s)
        self._done += 1

    async def worker(self) -> None:
        """Work, and say how far it is."""
        async with self._app, trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: self._app.work({"q": SLOTS}, task_status=task_status))
            while True:
                say("worked", done=self._done)
                await trio.sleep(SAY_S)

    async def producer(self) -> None:
        """Put three times what is drained, until standard input ends."""
        async with self._app:
            put, began_at = 0, time.monotonic()
            while True:
                await self._app.put_many(self._work.new(PAYLOAD, WORK_S) for _ in range(BATCH))
                put += BATCH
                say("put", put=put, for_s=time.monotonic() - began_at)
                await trio.sleep_until(trio.current_time() + max(0.0, began_at + put / PUTS_PER_S - time.monotonic()))


if __name__ == "__main__":
    lifeline.hold()
    program = Flooded(sys.argv[2], sys.argv[3])
    trio.run(program.worker if sys.argv[1] == "worker" else program.producer)
