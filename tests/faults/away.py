"""A worker that goes away, or one that comes back: `python -m tests.faults.away first|back URI DATABASE`. It writes to
standard output how much it has run, a line of JSON each, with its resident memory. And what becomes due meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

import trio

from streamq import NewTask, StreamQ
from tests.chaos import lifeline
from tests.faults.flooded import SAY_S, say
from tests.long_form import sized

DUE: Final = sized(5_000, 100_000)
URGENT: Final = 20
OTHERS: Final = 20
STEPS: Final = 20
"""Instants at which a part of it is due."""

FIRST_S: Final = sized(3.0, 60.0)
LAST_S: Final = sized(4.0, 560.0)
"""When the first and the last is due, counted from its put."""

LEASE_S: Final = sized(4.0, 30.0)
"""Of what the first worker holds as it goes."""

SLOTS: Final = {"late": 8, "other": 2, "held": 1}


class Away:
    """One process."""

    def __init__(self, uri: str, database: str, *, holds: bool = False) -> None:
        self._holds = holds
        self.app = StreamQ(uri, database=database)
        self.late = self.app.task(queue="late", name="late")(self._run)
        self.other = self.app.task(queue="other", name="other")(self._run)
        self.held = self.app.task(queue="held", name="held", lease_s=LEASE_S)(self._hold)
        self._ran = 0

    def due(self) -> Iterator[NewTask]:
        """Make what becomes due; the urgent and the other queue's after three quarters of the rest."""
        for step in range(STEPS):
            delay_s = FIRST_S + (LAST_S - FIRST_S) * step / (STEPS - 1)
            if step == STEPS * 3 // 4:
                yield from (self.late.options(delay_s=delay_s, priority=9).new() for _ in range(URGENT))
                yield from (self.other.options(delay_s=delay_s).new() for _ in range(OTHERS))
            plain = self.late.options(delay_s=delay_s)
            yield from (plain.new() for _ in range(DUE // STEPS))

    async def _run(self) -> None:
        self._ran += 1

    async def _hold(self) -> None:
        if self._holds:
            await trio.sleep_forever()

    async def work(self) -> None:
        """Work, and say how far it is."""
        say("begun", ran=0)
        async with self.app, trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: self.app.work(SLOTS, task_status=task_status))
            while True:
                say("worked", ran=self._ran)
                await trio.sleep(SAY_S)


if __name__ == "__main__":
    lifeline.hold()
    trio.run(Away(sys.argv[2], sys.argv[3], holds=sys.argv[1] == "first").work)
