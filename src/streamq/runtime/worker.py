"""A worker: crews of slots, each slot taking a claim, running its handler and handing in the outcome.

Stopping at once (its scope is cancelled): nothing more is claimed; async handlers are cancelled and those in threads
are waited for; what had not ended is released, uncounted; all of that is written before `run` returns.

Stopping in good order (`Stop`): nothing more is claimed or started, what runs may end within the grace, and then the
rest is stopped at once.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import trio

from streamq.core.handling import Handling, leases_of
from streamq.core.limits import Limits
from streamq.core.sharing import Shared
from streamq.runtime.intake import Intake
from streamq.runtime.place import PLACE, Place
from streamq.runtime.runner import Runner
from streamq.runtime.services import Services
from streamq.runtime.slot import Slot
from streamq.runtime.sole import sole_error
from streamq.runtime.takers import Pool, Takers
from streamq.runtime.wants import Wants


class Lane(msgspec.Struct, frozen=True):
    """One queue of a worker: its handlers by name, the lease of handlers that have none of their own, and the queue's
    limits."""

    queue: str
    handlers: Mapping[str, Handling]
    lease_s: float
    limits: Limits | None = None


class Crew(msgspec.Struct, frozen=True):
    """So many slots for the tasks of one lane, or of several that share them."""

    lanes: tuple[Lane, ...]
    slots: int
    shared: Shared | None = None


class Stop(msgspec.Struct, frozen=True):
    """When to stop in good order, and how long what runs may go on then."""

    asked: trio.Event
    grace_s: float = math.inf


async def finished(function: Callable[[], Awaitable[object]], stop: Stop | None) -> bool:
    """Await `function`; False when `stop` was asked for before: then it is cancelled."""
    done = False
    with sole_error():
        async with trio.open_nursery() as nursery:

            async def give_up(asked: trio.Event) -> None:
                await asked.wait()
                nursery.cancel_scope.cancel()

            if stop is not None:
                nursery.start_soon(give_up, stop.asked)
            await function()
            done = True
            nursery.cancel_scope.cancel()
    return done


class Worker:
    """Works for its crews until stopped or cancelled."""

    def __init__(self, services: Services, crews: list[Crew], stop: Stop | None = None) -> None:
        self._services = services
        self._stop = stop
        self._runner = Runner(services.journal)
        self._crews = [(crew, _takers(crew, services)) for crew in crews]
        self._intakes = [
            services.intake(_wants(lane, services, crew, of_crew=lane is crew.lanes[0]), takers)
            for crew, takers in self._crews
            for lane in crew.lanes
        ]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work; `started` once no later put can be missed.

        Raises `AccessRefused` when the server does not let it. Cancellation: shielded while it gives back what it
        holds, at most a few seconds with the server away.
        """
        queues = [intake.wants.queue for intake in self._intakes]
        try:
            if not await self._subscribed():
                task_status.started()
                return
            self._services.journal.write("worker started", queues=queues)
            task_status.started()
            await self._work()
        finally:
            self._services.watcher.unsubscribe(self._intakes)
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for intake in self._intakes:
                        nursery.start_soon(self._give_back, intake)
            self._services.journal.write("worker stopped", queues=queues)

    async def _subscribed(self) -> bool:
        """Wait until the stream is open; False when it was asked to stop before."""
        return await finished(lambda: self._services.watcher.subscribe(self._intakes), self._stop)

    async def _give_back(self, intake: Intake) -> None:
        await intake.stop()  # a claim may still be in flight, in the feed's thread too
        await self._services.settler.give_back(intake)

    async def _work(self) -> None:
        with sole_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell_when_cancelled)
                nursery.start_soon(self._services.until_left)
                for intake in self._intakes:
                    nursery.start_soon(intake.run)
                async with trio.open_nursery() as slots:
                    if self._stop is not None:
                        nursery.start_soon(self._stop_in_order, self._stop, slots.cancel_scope)
                    for crew, takers in self._crews:
                        handlers = {name: one for lane in crew.lanes for name, one in lane.handlers.items()}
                        PLACE.set(Place(self._services, handlers))  # the slots inherit it
                        for _ in range(crew.slots):
                            slots.start_soon(Slot(takers, handlers, self._runner, self._services.settler).run)
                nursery.cancel_scope.cancel()

    async def _stop_in_order(self, stop: Stop, slots: trio.CancelScope) -> None:
        await stop.asked.wait()
        for _, takers in self._crews:
            takers.close()
        grace_s = None if stop.grace_s == math.inf else stop.grace_s
        self._services.journal.write("worker stopping", running=self._running(), grace_s=grace_s)
        async with trio.open_nursery() as nursery:
            for intake in self._intakes:
                nursery.start_soon(intake.stop)
            await trio.sleep(stop.grace_s)
            self._services.journal.write("grace is over", running=self._running())
            slots.cancel()
            self._tell_of_threads()

    def _running(self) -> int:
        return sum(len(self._services.holdings.of(intake)) for intake in self._intakes)

    async def _tell_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._tell_of_threads()

    def _tell_of_threads(self) -> None:
        """Say what a stop waits for: threads cannot be cancelled."""
        running = self._runner.in_threads
        if running:
            names = ", ".join(sorted(running))
            self._services.journal.write("waiting for threads", tasks=running.total(), handlers=names)


def _takers(crew: Crew, services: Services) -> Takers:
    if crew.shared is not None:
        return Pool(services.settler.release, crew.shared)
    return Takers(services.settler.release, keeps=True)


def _wants(lane: Lane, services: Services, crew: Crew, *, of_crew: bool) -> Wants:
    return Wants(
        queue=lane.queue,
        worker=services.worker,
        lease_s=lane.lease_s,
        limits=lane.limits,
        only=tuple(lane.handlers),
        spare=None if crew.shared is None else 0,
        slots=crew.slots if of_crew else 0,
        leases=leases_of(lane.handlers.values(), lane.lease_s),
    )
