"""Claiming without trio: what is there now, or what the stream tells of while a call waits."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Mapping
from typing import Final

from streamq.blocking_task import BlockingTask
from streamq.core.claim import Ask, Claim
from streamq.core.handling import BareSettings
from streamq.core.limits import Limits
from streamq.core.outcome import raised
from streamq.core.settlement import settlement_of
from streamq.ear import Ear
from streamq.errors import ClaimUnknown, PayloadUndecodable, StoreError
from streamq.runtime import clock
from streamq.runtime.upkeep import Upkeep
from streamq.store.contract import Claimed, Store

SLICE_S: Final = 0.25
"""A waiting claim looks up this often: by so much it may wait longer than asked, or start a delayed task late."""

MOST_ECHOES: Final = 100
"""Tasks that a loop claims one after the other before it drops the stream that told of them."""


class Claimer:
    """Claims for one caller."""

    def __init__(
        self,
        queue: str,
        store: Store,
        upkeep: Upkeep,
        worker: Callable[[], str],
        settings: BareSettings,
        lease_s: float,
        leases: Mapping[str, float],
        limits: Limits | None,
    ) -> None:
        self._queue = queue
        self._limits = limits
        self._store = store
        self._upkeep = upkeep
        self._worker = worker
        self._settings = settings
        self._lease_s = lease_s
        self._leases = leases

    def claim(self, n: int, wait_s: float, stopped: Callable[[], bool] = lambda: False) -> list[BlockingTask]:
        """Claim up to `n`, and wait for the first at most `wait_s`, or until `stopped()`, which is asked four times a
        second."""
        tasks, _ = self.look(n)
        if tasks or wait_s == 0:
            return tasks or []
        with self.ear(stopped) as ear:
            return ear.wait(lambda: self.look(n), wait_s) or []

    def ear(self, stopped: Callable[[], bool] = lambda: False) -> Ear:
        """Make what tells that there may be something to claim."""
        shortest_s = min([self._lease_s, *self._leases.values()])
        return Ear(self._store, queues=(self._queue,), lease_s=shortest_s, slice_s=SLICE_S, stopped=stopped)

    def look(self, n: int) -> tuple[list[BlockingTask] | None, float]:
        """Claim up to `n`; None, and when to look again, when there is nothing."""
        unknown_s = self._upkeep.abandon(self._store)
        while True:
            claimed = self._claim(n)
            if claimed.paused:
                return None, unknown_s  # resuming it is on the stream
            claims, again_s = claimed.claims, math.inf
            if not claims:
                # What is due, or lost its holder, is seen to here as well: there may be no worker anywhere.
                tick = self._upkeep.do(self._store)
                again_s = math.inf if tick.next_s is None else tick.next_s
                if self._limits is not None:
                    again_s = 0.0  # a freed slot or a new token is not on the stream: look as often as it can be
                claims = self._claim(n).claims if tick.released else ()
            tasks = [task for claim in claims if (task := self._task_of(claim)) is not None]
            if tasks or not claims:
                return tasks or None, min(again_s, unknown_s)

    def _claim(self, n: int) -> Claimed:
        ask = Ask(
            self._queue,
            n,
            clock.new_claim_id(),
            self._lease_s,
            self._worker(),
            leases=self._leases,
            limits=self._limits,
            heeds_pause=True,
        )
        try:
            return self._store.claim(ask)
        except ClaimUnknown as unknown:
            self._upkeep.remember(unknown)
            raise

    def _task_of(self, claim: Claim) -> BlockingTask | None:
        try:
            return BlockingTask(claim, self._store, self._settings)
        except PayloadUndecodable as error:
            outcome = raised("PayloadUndecodable", str(error), final=True)
            with contextlib.suppress(StoreError):  # its lease ends by itself, and others were claimed with it
                self._store.settle([settlement_of(outcome, claim, self._settings.retry, 0.0)])
            return None


def consumed(claimer: Claimer, wait_s: float) -> Generator[BlockingTask]:
    """Claim one after the other, until there is none for `wait_s`; see `BlockingQueue.consume`."""
    with claimer.ear() as ear:
        at_once = 0
        while True:
            tasks, _ = claimer.look(1)
            at_once = at_once + 1 if tasks else 0
            if at_once > MOST_ECHOES:
                ear.close()  # what it was told meanwhile is long claimed, and would be looked for in vain
            tasks = tasks or ear.wait(lambda: claimer.look(1), wait_s)
            if not tasks:
                return
            try:
                yield tasks[0]
            except GeneratorExit:
                tasks[0].give_back()
                raise
