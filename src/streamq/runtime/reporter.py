"""The reporter: writes what holders say of how far they are, the newest of each, in one write at a time.

    progress() ──first of its task for a while──→ due ──┐
    progress() ──soon after another────→ later ─(pause)─┴→ one write for all → answers

A handler that reports in a tight loop waits for a write once in `PAUSE_S`, and in between only leaves its newest word;
what was left is written after the pause. What has not been written when the task is settled is written by the
settlement itself, so that the last word is never lost and no round trip is added.
"""

from __future__ import annotations

from typing import Final

import trio

from streamq.bridge import Bridge
from streamq.core.report import Report, Reported
from streamq.errors import LeaseLost, OutcomeUnknown, StoreError, StoreUnavailable
from streamq.runtime import clock
from streamq.runtime.held import Held, Holdings
from streamq.runtime.journal import Journal
from streamq.store.contract import Store

PAUSE_S: Final = 0.05
"""How often one task's progress is written at most. People watch it: more than 20 a second would only cost."""

AGAIN_S: Final = 0.2
"""Before a failed write is repeated, jittered; selecting a server waits by itself."""

PASSING: Final = (StoreUnavailable, OutcomeUnknown)
"""Errors after which writing again may help."""


class Reporter:
    """Runs as one task (`run`); holders call `report`."""

    def __init__(self, store: Store, bridge: Bridge, holdings: Holdings, journal: Journal) -> None:
        self._store = store
        self._bridge = bridge
        self._holdings = holdings
        self._journal = journal
        self._due: dict[Held, None] = {}
        self._later: dict[Held, None] = {}
        self._lot = trio.lowlevel.ParkingLot()
        self._round = trio.Event()
        self._writing: trio.Event | None = None
        self._ended = False
        holdings.report_by = self.report

    async def report(self, held: Held, report: Report) -> None:
        """Say how far the task of `held` is.

        Raises `LeaseLost` when it is not held any more, also when it was settled here; a server that is away is
        journaled, and the report written later. Cancellation: safe; what was said is written.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if held.lost or held.ending or held.settled or self._ended:
            raise LeaseLost(held.claim.id, "progress")  # without the services nobody extends it
        held.report = report
        if held.apart:  # the transaction's last write carries it: one beside it would be a conflict
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if clock.now() - held.reported_at < PAUSE_S or held in self._later:
            self._later[held] = None
            self._lot.unpark_all()
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        self._due[held] = None
        self._lot.unpark_all()
        await self._round.wait()
        if held.lost or self._ended:
            raise LeaseLost(held.claim.id, "progress")

    def catch_up(self, held: Held) -> None:
        """Write later what was said while nothing of it could be: its transaction is over, and it is still held."""
        if held.report is not held.reported:
            self._later[held] = None
            self._lot.unpark_all()

    async def run(self) -> None:
        """Write for ever. Cancellation: safe; whoever waits is told."""
        try:
            await self._write_on()
        finally:
            self._ended = True
            self._round.set()

    async def wait_written(self) -> None:
        """Wait until no write is in flight. Cancellation: safe."""
        while self._writing is not None:
            await self._writing.wait()

    async def _write_on(self) -> None:
        while True:
            if not self._due:
                if not self._later:
                    await self._lot.park()
                    continue
                with trio.move_on_after(PAUSE_S):
                    while not self._due:
                        await self._lot.park()
            batch, self._due, self._later = [*self._due, *self._later], {}, {}
            done, self._round = self._round, trio.Event()
            self._writing = done
            try:
                await self._write(list(dict.fromkeys(batch)))
            finally:
                self._writing = None
                done.set()

    async def _write(self, batch: list[Held]) -> None:
        sent_at = clock.now()
        sent = [
            (held, held.claim, held.report)
            for held in batch
            if held.report is not None and not (held.lost or held.ending or held.settled or held.apart)
        ]
        if not sent:
            return
        for held, _, _ in sent:
            held.reported_at = sent_at
        try:
            reports = [Reported(claim, report) for _, claim, report in sent]
            lost = set(await self._bridge.call(self._store.report, reports))
        except StoreError as error:
            self._journal.write("store error", doing="report progress", error=error)
            for held, claim, _ in sent:
                held.mistrust(sent_at, claim)
                self._holdings.changed(held)
            if isinstance(error, PASSING):
                self._later |= dict.fromkeys(batch)
                await trio.sleep(clock.jittered(AGAIN_S))
                return
            for held, _, report in sent:
                held.reported = report  # given up: it must not keep the settlement from being stored, either
            return
        for held, claim, report in sent:
            if claim.id not in lost:
                held.reported = report
                held.trust(sent_at, claim)
                self._holdings.changed(held)
            elif not held.ending:
                self._holdings.lose(held, "taken over")
