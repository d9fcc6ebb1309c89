"""A program whose clock is wrong: `python -m tests.faults.wrong_clock URI DATABASE NAME`. It puts and it works, beside
others; what it did is written to standard output, a line of JSON each, with instants of the monotonic clock."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import msgspec
import trio

from streamq import StreamQ, TaskError, current_task, progress
from tests import clocks
from tests.chaos import lifeline

LEASE_S: Final = 20.0
"""Far longer than a task takes on a busy machine, far shorter than any of the clocks is wrong."""

LONG_S: Final = 0.5
"""Between the steps of a long task, each of which renews its lease, time for others to take it."""

STEPS: Final = 3
DELAYS_S: Final = (0.3, 0.6, 0.9, 1.2, 1.5)
EXPIRES_IN_S: Final = 60.0
RESULT_S: Final = 40.0


def say(what: str, **more: Any) -> None:
    """Write one line."""
    print(msgspec.json.encode({"what": what, "at": time.monotonic(), **more}).decode(), flush=True)


async def main(uri: str, database: str, name: str) -> None:
    """Put, and work until standard input ends."""
    app = StreamQ(uri, database=database, lease_s=LEASE_S, safety_scan_s=None, worker_id=name)

    @app.task(queue="q")
    async def short() -> None:
        began()

    @app.task(queue="q")
    async def long() -> None:
        began()
        for step in range(STEPS):
            await trio.sleep(LONG_S)
            await progress(step)

    @app.task(queue="q", lease_s=1)
    async def brief() -> None:
        """Never put. Where there are leases of a second, all look each second for some that have ended."""

    @app.task(queue="q", every_s=1)
    async def tick() -> None:
        slot_at = current_task().slot_at
        assert slot_at is not None
        say("slot", slot=slot_at.timestamp())

    def began() -> None:
        say("began", id=str(current_task().id), by=name)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work, {"q": 16})
        handles = []
        for delay_s in DELAYS_S:
            sent_at = time.monotonic()
            handles.append(await short.options(delay_s=delay_s).put())
            say("put", id=str(handles[-1].id), sent_at=sent_at, delay_s=delay_s)
        for _ in DELAYS_S:
            handles.append(await short.options(expires_in_s=EXPIRES_IN_S).put())
            handles.append(await long.put())
            say("put", id=str(handles[-2].id), sent_at=0.0, delay_s=0.0)
            say("put", id=str(handles[-1].id), sent_at=0.0, delay_s=0.0)
            say("time", wall=time.time())
        for handle in handles:
            try:
                await handle.result(timeout_s=RESULT_S)
            except TaskError as error:
                say("error", said=f"{type(error).__name__}: {error}")
            say("time", wall=time.time())
        say("done")
        await trio.sleep_forever()


if __name__ == "__main__":
    lifeline.hold()
    clocks.mend()
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
