"""The scheduler: wakes at the next known instant, lets the store move what is due, and goes back to sleep.

Every worker has one. Its moves are idempotent, so no leader is elected: the worker of rank 0 acts at once, the
k-th stands by k times 50 ms behind and then finds nothing to do. A dead first costs milliseconds, never a task.

It learns of the next instant from three sides: the store's answer to the last look, the stream (a task came that
expires, or one ended that others wait for), and the shortest lease in use: claims are not on the stream, but none made
after a look can end sooner than one shortest lease after it. What it learns of delayed tasks it tells the releaser,
which sees to those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from streamq.bridge import Bridge
from streamq.core.member import Roster
from streamq.core.wake import Wake
from streamq.errors import StoreError
from streamq.runtime import clock
from streamq.runtime.alarm import Alarm
from streamq.runtime.journal import Journal
from streamq.runtime.releaser import Releaser
from streamq.store.contract import Store, Tick

SWEEP_S: Final = 30.0
"""Between two sweeps of the blocked tasks. Chosen freely, like the safety scan: a backstop, nothing waits for it but
what a person's deletion or a fault left behind."""


class Scheduler:
    """Runs as one task; `hear` may be called at any time."""

    def __init__(
        self,
        store: Store,
        bridge: Bridge,
        releaser: Releaser,
        released: Callable[[Tick], None],
        journal: Journal,
        lease_s: float,
    ) -> None:
        self._store = store
        self._bridge = bridge
        self._releaser = releaser
        self._released = released
        self._journal = journal
        self._stand_by_s = 0.0
        self._lease_s = lease_s
        self._alarm = Alarm(-float("inf"))  # nothing is known yet: look at once

    def join(self, roster: Roster) -> None:
        """Learn this worker's rank and the shortest lease in use."""
        self._stand_by_s = roster.stand_by_s
        self._releaser.join(roster)
        self._hear_lease(roster.lease_s)
        self._lease_s = roster.lease_s  # only the whole list can tell that the shortest has left

    def hear(self, wake: Wake) -> None:
        """Learn from the stream that a task was delayed, that one has an end of its own, or that a member came."""
        if wake.look_in_s is not None:
            self._alarm.sooner(clock.now() + wake.look_in_s + self._stand_by_s)
        if wake.kind == "delayed":
            self._releaser.hear(wake.due_in_s)
        elif wake.follow_up:
            self._alarm.sooner(clock.now() + self._stand_by_s)
        elif wake.kind == "member" and wake.lease_s > 0:
            self._hear_lease(wake.lease_s)

    def look(self) -> None:
        """Look soon: the stream was reopened, and what it told meanwhile is not known."""
        self._alarm.sooner(clock.now())

    async def run(self) -> None:
        """Schedule for ever. Cancellation: safe; a look in flight is waited for."""
        while True:
            await self._alarm.wait()
            try:
                tick = await self._bridge.aside(self._store.tick, False)
                self._alarm.went_well()
            except StoreError as error:
                self._journal.write("store error", doing="schedule", error=error)
                self._alarm.failed()
                continue
            self._note(tick)

    async def sweep(self) -> None:
        """Sweep for ever, one page each time: what no mark and no instant tells is found within about `SWEEP_S` a page.
        Cancellation: safe; a sweep in flight is waited for."""
        pause_s = SWEEP_S
        while True:
            await trio.sleep(clock.jittered(pause_s))
            try:
                tick = await self._bridge.aside(self._store.sweep)
            except StoreError as error:
                self._journal.write("store error", doing="sweep", error=error)
                pause_s = SWEEP_S
                continue
            self._tell(tick)
            pause_s = SWEEP_S if tick.next_s is None else tick.next_s

    def _note(self, tick: Tick) -> None:
        now = clock.now()
        self._alarm.sooner(now + self._lease_s + self._stand_by_s)
        if tick.due_s is not None:
            self._releaser.hear(tick.due_s)
        if tick.next_s is not None:
            # What is due already was moved by this look; more may follow at once.
            moved = bool(tick.released or tick.failed or tick.followed or tick.expired or tick.removed)
            self._alarm.sooner(now if moved else now + tick.next_s + self._stand_by_s)
        self._tell(tick)
        if tick.failed:
            self._journal.write("lease expired", failed=tick.failed)

    def _tell(self, tick: Tick) -> None:
        for refused in tick.refused:
            self._journal.write_once("task cannot be moved", refused.id, doing="schedule", error=refused.said)
        if tick.followed:
            self._journal.add("followed up", tick.followed)
        if tick.expired:
            self._journal.write("tasks expired", expired=tick.expired)
        if tick.removed:
            self._journal.write("tasks outlived", removed=tick.removed)
        if tick.released:
            self._journal.add("released", len(tick.released))
            self._released(tick)

    def _hear_lease(self, lease_s: float) -> None:
        if lease_s < self._lease_s:
            self._alarm.sooner(clock.now() + lease_s)
            self._lease_s = lease_s
