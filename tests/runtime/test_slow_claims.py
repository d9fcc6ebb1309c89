"""Claims that are answered late: what comes for takers that wait is theirs, and nothing is left lying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import trio

from streamq import StreamQ
from streamq.bridge import InlineBridge
from streamq.runtime.intake import HOARD_S
from streamq.store.memory import MemoryStore
from streamq.testing import trio_time

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TRIALS: Final = 60
"""Two turns of trio's loop have to come in one of their two orders each."""


class SlowBridge(InlineBridge):
    """Claims are answered after `slow_s`."""

    slow_s = 0.0

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Bridge.call`."""
        result = await super().call(function, *args)
        if function.__name__ == "claim" and self.slow_s:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.slow_s)
        return result


async def run_ten() -> int:
    """Let a worker with four slots, one of which is busy, run what comes by a claim that is answered late; return how
    many tasks it claimed for that."""
    bridge = SlowBridge()
    app = StreamQ.on(MemoryStore(trio_time), bridge, safety_scan_s=None)
    ran: list[int] = []
    all_ran = trio.Event()

    @app.task
    async def job(number: int) -> None:
        ran.append(number)
        if len(ran) == 10:
            all_ran.set()
        if number == 0:
            await trio.sleep(100)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=4, task_status=task_status))
        await job.put(0)
        bridge.slow_s = HOARD_S
        await app.put_many([job.new(number) for number in range(1, 10)])
        with trio.fail_after(20):
            await all_ran.wait()
        nursery.cancel_scope.cancel()
    return app.journal.counts["claimed"]


async def test_tasks_that_come_late_for_takers_that_wait_are_not_given_back() -> None:
    """In the very instant in which what lies here for too long is given back, tasks come that were claimed so long ago:
    given back with takers idle, they were left lying, for the claimer believed that all slots were in use."""
    assert [await run_ten() for _ in range(TRIALS)] == [10] * TRIALS
