"""The picker: claims for calls of the user's own (`queue.claim`), one answer each, without a loop around them.

    claim ──→ look at the queue ──found──→ held
                  │ nothing
                  ↓ (while there is time)
              join the queue's line: an intake without prefetch, served by the process's one stream ──→ held

A line exists while somebody stands in it. What is obtained for a caller that has left meanwhile goes back at once. What
was handed out stays held, and extended, until it is settled or the app is left: then it goes back too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from streamq.bridge import Bridge
from streamq.core.claim import Ask
from streamq.errors import ClaimUnknown, StoreError, UsageError
from streamq.runtime import clock
from streamq.runtime.held import Held
from streamq.runtime.intake import Intake
from streamq.runtime.journal import Journal
from streamq.runtime.settler import Settler
from streamq.runtime.upkeep import Upkeep
from streamq.runtime.wants import Wants
from streamq.runtime.watcher import Watcher
from streamq.store.contract import Claimed, Store

Lane = tuple[str, float, tuple[tuple[str, float], ...]]
"""Who may stand in one line: claims of the same queue for the same leases."""


class Line:
    """Those who wait for tasks of one queue."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.waiting = 0


class Picker:
    """One per app. It is the owner of what it hands out."""

    def __init__(
        self,
        store: Store,
        bridge: Bridge,
        settler: Settler,
        watcher: Watcher,
        journal: Journal,
        unknown: Callable[[ClaimUnknown], None],
        intake: Callable[[Wants], Intake],
        start: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._upkeep = Upkeep()
        self._store = store
        self._bridge = bridge
        self._settler = settler
        self._watcher = watcher
        self._journal = journal
        self._unknown = unknown
        self._intake = intake
        self._start = start
        self._lines: dict[Lane, Line] = {}
        self._scopes: set[trio.CancelScope] = set()
        self._retiring = 0
        self._picking = 0
        self._closed = False
        self._left = trio.lowlevel.ParkingLot()

    async def pick(self, wants: Wants, count: int, wait_s: float) -> list[Held]:
        """Claim up to `count`; when there is none, wait at most `wait_s` for the first.

        Raises `StoreError` when the server could not be asked at once; errors while it waits are tried again. Trips: 2,
        or 1 and a look of the scheduler when there is nothing. Cancellation: nothing is taken, or it is returned.
        """
        if self._closed:
            raise _left()
        self._picking += 1
        try:
            picked = await self._look(wants, count)
            if self._closed:
                raise _left()  # what was obtained goes back with the rest
            if picked or wait_s <= 0:
                return picked
            with trio.move_on_after(wait_s):
                picked.append(await self._wait(wants))
            if picked and count > 1:
                picked += await self._more(wants, count - 1)
            return picked
        finally:
            self._picking -= 1
            self._left.unpark_all()

    async def close(self) -> None:
        """Send away who waits, and give back what is held, uncounted. Call it shielded; bounded."""
        self._closed = True
        for scope in self._scopes:
            scope.cancel()
        while self._picking or self._lines or self._retiring:
            await self._left.park()
        await self._settler.give_back(self)

    # --- now ----------------------------------------------------------------------------------------------------

    async def _look(self, wants: Wants, count: int) -> list[Held]:
        def look() -> tuple[Claimed, float]:
            sent_at = clock.thread_now()
            claimed = self._store.claim(_ask(wants, count))
            if not claimed.claims and not claimed.paused and self._upkeep.do(self._store).released:
                # What is due, or lost its holder, is seen to here as well: there may be no worker anywhere.
                sent_at = clock.thread_now()
                claimed = self._store.claim(_ask(wants, count))
            return claimed, sent_at

        try:
            claimed, sent_at = await self._bridge.call(look)
        except ClaimUnknown as error:
            self._unknown(error)
            self._journal.write("claim unknown", queue=error.queue, tasks=len(error.ids), error=error)
            raise
        for refused in claimed.refused:
            self._journal.write_once("task cannot be moved", refused.id, doing="claim", error=refused.said)
        self._journal.add("claimed", len(claimed.claims))
        self._journal.add("claim calls", 1)
        ago_s = clock.thread_now() - sent_at
        return self._settler.admit([Held(claim, clock.now() - ago_s, self) for claim in claimed.claims])

    async def _more(self, wants: Wants, count: int) -> list[Held]:
        """Look whether more came with the first. That one is in our hands: nothing may keep it from its caller."""
        more: list[Held] = []
        try:
            with trio.CancelScope(shield=True):
                more = await self._look(wants, count)
        except StoreError as error:
            self._journal.write("store error", doing="claim", queue=wants.queue, error=error)
        return more

    # --- later --------------------------------------------------------------------------------------------------

    async def _wait(self, wants: Wants) -> Held:
        held: Held | None = None
        with trio.CancelScope() as scope:
            line = self._join(wants)
            self._scopes.add(scope)
            try:
                # Everyone who waits makes sure of the stream, so that everyone hears when the server refuses it.
                await self._watcher.subscribe([line.intake])
                held = await line.intake.take()
                held.owner = self
            finally:
                self._scopes.discard(scope)
                self._leave(line)
        if held is None:
            raise _left()  # by `close`
        return held

    def _join(self, wants: Wants) -> Line:
        lane = _lane(wants)
        if lane not in self._lines:
            self._lines[lane] = Line(self._intake(wants))
            self._start(self._lines[lane].intake.run)
        line = self._lines[lane]
        line.waiting += 1
        return line

    def _leave(self, line: Line) -> None:
        line.waiting -= 1
        if line.waiting:
            return
        self._watcher.unsubscribe([line.intake])
        del self._lines[_lane(line.intake.wants)]
        self._retiring += 1

        async def retire() -> None:
            with trio.CancelScope(shield=True):
                await line.intake.stop()  # a claim may still be in flight
                await self._settler.give_back(line.intake)
            self._retiring -= 1
            self._left.unpark_all()

        self._start(retire)


def _lane(wants: Wants) -> Lane:
    return wants.queue, wants.lease_s, tuple(sorted(wants.leases.items()))


def _ask(wants: Wants, count: int) -> Ask:
    return Ask(
        wants.queue,
        count,
        clock.new_claim_id(),
        wants.lease_s,
        wants.worker,
        only=wants.only,
        leases=wants.leases,
        limits=wants.limits,
        heeds_pause=True,
    )


def _left() -> UsageError:
    return UsageError("the app was left: claim inside `async with app`")
