"""The recurrer: wakes at the next slot of the schedules declared here and lets the store put its task.

Beside the scheduler, and like it: every worker has one, no leader is elected, the worker of rank 0 acts at once and
the k-th stands by behind. What keeps two from firing one slot is the store's transaction, not the rank.

It learns of the next slot from two sides: the store's answer to the last look, and the stream, when a schedule was
declared or enabled elsewhere. A backstop look every 30 s makes a lost word cost latency only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from streamq.bridge import Bridge
from streamq.core.member import Roster
from streamq.core.new_task import NewTask
from streamq.core.schedule import Schedule
from streamq.errors import OutcomeUnknown, StoreError, StoreUnavailable
from streamq.runtime import clock
from streamq.runtime.alarm import Alarm
from streamq.runtime.journal import Journal
from streamq.runtime.pauses import Pauses
from streamq.store.contract import Firing, Store

BACKSTOP_S: Final = 30.0


class Recurrer:
    """Runs as one task; `look` may be called at any time."""

    def __init__(
        self,
        store: Store,
        bridge: Bridge,
        fired: Callable[[Sequence[NewTask]], None],
        journal: Journal,
        member_id: str,
    ) -> None:
        self._store = store
        self._bridge = bridge
        self._fired = fired
        self._journal = journal
        self._member_id = member_id
        self._stand_by_s = 0.0
        self._served: list[Sequence[Schedule]] = []
        self._alarm = Alarm(-float("inf"))

    def join(self, roster: Roster) -> None:
        """Learn this worker's rank."""
        self._stand_by_s = roster.stand_by_s

    def look(self) -> None:
        """Look soon: what is stored may have changed."""
        self._alarm.sooner(clock.now())

    async def declare(self, schedules: Sequence[Schedule]) -> None:
        """Store what is declared here, while the server is away again and again.

        Raises what the server refused. Cancellation: safe, what was stored stays.
        """
        pauses = Pauses()
        while schedules:
            try:
                await self._bridge.call(self._store.declare, schedules, self._member_id)
                return
            except (StoreUnavailable, OutcomeUnknown) as error:
                self._journal.write("store error", doing="declare schedules", error=error)
            await trio.sleep(pauses.next_s())

    @contextmanager
    def serving(self, schedules: Sequence[Schedule]) -> Iterator[None]:
        """Fire `schedules` for the body of the block."""
        self._served.append(schedules)
        self.look()
        try:
            yield
        finally:
            self._served.remove(schedules)

    async def run(self) -> None:
        """Fire for ever. Cancellation: safe; a look in flight is waited for."""
        while True:
            await self._alarm.wait()
            schedules = list({one.name: one for served in self._served for one in served}.values())
            if not schedules:
                continue
            try:
                firing = await self._bridge.aside(self._store.fire, schedules, self._member_id)
                self._alarm.went_well()
            except StoreError as error:
                self._journal.write("store error", doing="fire schedules", error=error)
                self._alarm.failed()
                continue
            self._note(firing)

    def _note(self, firing: Firing) -> None:
        next_s = BACKSTOP_S if firing.next_s is None else min(firing.next_s, BACKSTOP_S)
        self._alarm.sooner(clock.now() + next_s + self._stand_by_s)
        for refused in firing.refused:
            self._journal.write_once("schedule cannot be fired", refused.id, error=refused.said)
        for name, slot in firing.skipped:
            self._journal.write("slot skipped", schedule=name, slot_at=slot, error="the task before has not ended")
        if firing.fired:
            self._journal.add("fired", len(firing.fired))
            self._fired(firing.fired)
