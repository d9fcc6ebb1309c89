"""The services of one app in one process: what serves all its putting, waiting, working and consuming.

They outlive the cancellation of the app's body on purpose: while it unwinds, workers give back what they hold, and
that needs the settler. `stop` ends them; nothing outlives `run`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from streamq.bridge import Bridge
from streamq.core.member import Member
from streamq.core.new_task import NewTask
from streamq.core.wake import Wake
from streamq.errors import UsageError
from streamq.runtime import clock
from streamq.runtime.abandoner import Abandoner
from streamq.runtime.canceller import Canceller
from streamq.runtime.held import Holdings
from streamq.runtime.intake import Early, Intake
from streamq.runtime.journal import Journal
from streamq.runtime.keeper import Keeper
from streamq.runtime.mender import Mender
from streamq.runtime.picker import Picker
from streamq.runtime.putter import Putter
from streamq.runtime.recurrer import Recurrer
from streamq.runtime.releaser import Releaser, TaskWake
from streamq.runtime.reporter import Reporter
from streamq.runtime.scheduler import Scheduler
from streamq.runtime.settler import GIVE_BACK_S, Settler
from streamq.runtime.tailer import Tailer
from streamq.runtime.takers import Takers
from streamq.runtime.waiter import Waiters
from streamq.runtime.wants import Wants
from streamq.runtime.watcher import Watcher
from streamq.store.contract import Store, Tick


class Services:
    """Made inside a trio run, for one `run`."""

    def __init__(
        self,
        store: Store,
        bridge: Bridge,
        journal: Journal,
        *,
        lease_s: float,
        safety_scan_s: float | None,
        worker_id: str | None = None,
    ) -> None:
        self.store = store
        self.bridge = bridge
        self.journal = journal
        self.member = Member(clock.new_name(), socket.gethostname(), os.getpid(), (), 0, lease_s, worker_id)
        self.worker = worker_id or self.member.id  # shown on tasks; several processes may be given one
        self.holdings = Holdings(journal)
        self.settler = Settler(store, bridge, self.holdings, journal)
        self.putter = Putter(store, bridge, self._stored)
        self.waiters = Waiters(store, bridge, self.member.id)
        self.canceller = Canceller(store, bridge, self.holdings, self.settler, journal)
        self.reporter = Reporter(store, bridge, self.holdings, journal)
        self.keeper = Keeper(store, bridge, self.holdings, journal)
        self._abandoner = Abandoner(store, bridge, journal)
        self._releaser = Releaser(store, bridge, self._is_idle, self._claim_due, self._released_due, journal)
        self._scheduler = Scheduler(store, bridge, self._releaser, self._released, journal, lease_s)
        self.recurrer = Recurrer(store, bridge, self._stored, journal, self.member.id)
        self._mender = Mender(store, bridge, journal)
        self._tailer = Tailer(store, bridge, journal) if store.has_tail else None
        self.watcher = Watcher(
            store,
            bridge,
            self._scheduler,
            self.recurrer,
            self.waiters,
            self.canceller,
            self._mender,
            journal,
            self.member,
            holder=self.worker,
            safety_scan_s=safety_scan_s,
            tailer=self._tailer,
        )
        self.picker = Picker(
            store,
            bridge,
            self.settler,
            self.watcher,
            journal,
            self._abandoner.add,
            self.intake,
            self.start,
        )
        self._scheduling = False
        self._stop = trio.Event()
        self._nursery: trio.Nursery | None = None

    def intake(self, wants: Wants, takers: Takers | None = None) -> Intake:
        """Make an intake, with takers of its own unless it is to share some; the first one starts the scheduler."""
        if not self._scheduling:
            self._scheduling = True
            self.start(self._releaser.run)
            self.start(self._releaser.flush)
            self.start(self._scheduler.run)
            self.start(self._mender.run)
            self.start(self.recurrer.run)
            self.start(self._scheduler.sweep)
        return Intake(
            wants,
            self.store,
            self.bridge,
            self.holdings,
            self.journal,
            self._abandoner.add,
            self.settler,
            takers,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`. Cancellation: shielded; the caller must call `stop`."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for service in (
                    self.putter.batcher.run,
                    self.settler.batcher.run,
                    self.keeper.extend,
                    self.keeper.watch,
                    self._abandoner.run,
                    self.canceller.run,
                    self.reporter.run,
                    self.watcher.run,
                    self.watcher.beat,
                    self.watcher.safety_scan,
                ):
                    nursery.start_soon(service)
                task_status.started()
                await self._stop.wait()
                strays = [held for held in self.holdings if held.owner is not self.picker and not held.ending]
                await self.picker.close()
                # Of workers and loops that outlive the app: they have been told, and give back what they can.
                with trio.move_on_after(GIVE_BACK_S):
                    await self.holdings.wait_settled(strays)
                nursery.cancel_scope.cancel()

    def start(self, service: Callable[[], Awaitable[None]]) -> None:
        """Run one more service until `stop`."""
        assert self._nursery is not None
        self._nursery.start_soon(service)

    def stop(self) -> None:
        """End the services; a worker or loop that outlives the app is told."""
        self.watcher.refuse(_left())
        self.waiters.close()
        self._stop.set()

    async def until_left(self) -> None:
        """Raise `UsageError` once the services are to end: for who must not go on without them."""
        await self._stop.wait()
        raise _left()

    def _stored(self, tasks: Iterable[NewTask]) -> None:
        """Wake this process's own consumers for what it put, without waiting for the stream."""
        if not self.watcher.serves:
            return
        wakes = [
            Wake("ready", one.id, one.queue, one.task, is_new=True, durable=one.max_attempts == 1)
            for one in tasks
            if one.options.at is None and not one.options.delay_s and not one.options.waits_for_others
        ]
        self.watcher.put_here(wakes if self._tailer is None else self._tailer.not_told(wakes))

    def _released(self, tick: Tick) -> None:
        self.watcher.told([Wake("ready", id, queue) for id, queue in tick.released])

    def _is_idle(self) -> bool:
        return self.watcher.is_idle

    def _claim_due(self, queue: str, due: Sequence[TaskWake]) -> Early | None:
        return self.watcher.claim_due(queue, due)

    def _released_due(self, items: Sequence[object]) -> None:
        # Of a task that is still held here (its giving back is not answered yet) a wake as of a new one would be taken
        # for an echo.
        self.watcher.told([_as_given_back(one) if self._is_held(one) else one for one in items])

    def _is_held(self, item: object) -> bool:
        return isinstance(item, Wake) and item.id is not None and self.holdings.keeps(item.id)


def _as_given_back(wake: object) -> Wake:
    assert isinstance(wake, Wake)
    return Wake("ready", wake.id, wake.queue)


def _left() -> UsageError:
    return UsageError("the app was left: work and consume inside `async with app`")
