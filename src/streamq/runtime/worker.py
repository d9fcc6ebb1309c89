"""A worker: for each of its queues a lane of slots, each slot taking a claim, running its handler and handing in
the outcome.

Stopping: nothing more is claimed; async handlers are cancelled and those in threads are waited for; what had not
ended is released, uncounted; all of that is written before `run` returns.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import trio

from streamq.core.handling import Handling
from streamq.core.limits import Limits
from streamq.runtime.intake import Intake, Wants
from streamq.runtime.runner import Runner
from streamq.runtime.services import Services
from streamq.runtime.slot import Slot
from streamq.runtime.sole import sole_error


class Lane(msgspec.Struct, frozen=True):
    """One queue of a worker: its handlers by name, how many tasks run at once, the lease of handlers that have none of
    their own, and the queue's limits."""

    queue: str
    handlers: Mapping[str, Handling]
    slots: int
    lease_s: float
    limits: Limits | None = None


class Worker:
    """Works on its lanes until cancelled."""

    def __init__(self, services: Services, lanes: list[Lane]) -> None:
        self._services = services
        self._runner = Runner(services.journal)
        self._intakes = [(lane, services.intake(_wants(lane, services))) for lane in lanes]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled; `started` once no later put can be missed.

        Raises `AccessRefused` when the server does not let it. Cancellation: shielded while it gives back what it
        holds, at most a few seconds with the server away.
        """
        intakes = [intake for _, intake in self._intakes]
        try:
            await self._services.watcher.subscribe(intakes)
            self._services.journal.write("worker started", queues=[lane.queue for lane, _ in self._intakes])
            task_status.started()
            await self._work()
        finally:
            self._services.watcher.unsubscribe(intakes)
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for intake in intakes:
                        nursery.start_soon(self._give_back, intake)
            self._services.journal.write("worker stopped", queues=[lane.queue for lane, _ in self._intakes])

    async def _give_back(self, intake: Intake) -> None:
        await intake.stop()  # a claim may still be in flight, in the feed's thread too
        await self._services.settler.give_back(intake)

    async def _work(self) -> None:
        with sole_error():
            async with trio.open_nursery() as nursery:
                for lane, intake in self._intakes:
                    nursery.start_soon(intake.run)
                    for _ in range(lane.slots):
                        nursery.start_soon(Slot(intake, lane.handlers, self._runner, self._services.settler).run)


def _wants(lane: Lane, services: Services) -> Wants:
    own = {name: one.lease_s for name, one in lane.handlers.items() if one.lease_s not in (None, lane.lease_s)}
    return Wants(
        queue=lane.queue,
        worker=services.worker,
        lease_s=lane.lease_s,
        limits=lane.limits,
        only=tuple(lane.handlers),
        leases={name: lease_s for name, lease_s in own.items() if lease_s is not None},
    )
