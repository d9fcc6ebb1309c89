"""A producer: `python -m tests.chaos.producer ORDERS`. Puts singly and in bursts until SIGTERM.

SIGUSR1 makes it pause, and say so once nothing is on its way any more; SIGUSR2 makes it go on.

It writes down what it is about to put before, and what the put said after. Half of what is unknown is put again, with
the same ids, until it is known.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from random import Random

import trio
from bson import ObjectId

from streamq import OutcomeUnknown, PutUnknown, Retry, StoreError, StreamQ
from streamq.core.new_task import NewTask
from tests.chaos import event, lifeline, mutants, orders, work
from tests.chaos.history import Pen
from tests.chaos.orders import HANDLER, QUEUE, Orders
from tests.chaos.start import Start

ATTEMPTS = 100
"""More than there are faults: a run is to be lost by streamq, not by having been struck too often."""

AGAIN_S = 0.2
RETRY = Retry(max_attempts=ATTEMPTS, first_s=0.05, cap_s=0.3)


class Producer:
    """One process's putting."""

    def __init__(self, given: Orders, pen: Pen, start: Start) -> None:
        self._load = given.load
        self._dice = Random(given.seed)
        self._pen = pen
        self._start = start
        self._app = StreamQ(given.uri, database=given.database, retry=RETRY)
        self._job = self._app.task(queue=QUEUE, name=HANDLER, retry=RETRY)(_job)
        self._stopping = trio.Event()
        self._going_on = trio.Event()
        self._going_on.set()
        self._pausing = trio.Event()
        self._at_rest = 0
        self._putters = self._load.putters + bool(self._load.burst)

    async def run(self) -> None:
        """Put until SIGTERM; then know what became of what is on the way."""
        async with self._app, trio.open_nursery() as nursery:
            await nursery.start(self._listen)
            self._start.ready()
            async with trio.open_nursery() as putters:
                for _ in range(self._load.putters):
                    putters.start_soon(self._put, 1, self._load.pause_ms)
                if self._load.burst:
                    putters.start_soon(self._put, self._load.burst, self._load.burst_pause_ms)
            nursery.cancel_scope.cancel()

    async def _listen(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGUSR1:
                    self._going_on = trio.Event()
                    self._pausing.set()
                else:
                    self._pausing = trio.Event()
                    self._going_on.set()
                if number == signal.SIGTERM:
                    self._stopping.set()

    async def _put(self, most: int, pause_ms: int) -> None:
        while not self._stopping.is_set():
            if self._pausing.is_set():
                await self._rest()
                continue
            count = most if most == 1 else self._dice.randint(2, most)
            await self._store([self._drawn() for _ in range(count)], again=self._dice.random() < 0.5)
            with trio.move_on_after(self._dice.random() * 2 * pause_ms / 1000):
                await self._pausing.wait()

    async def _rest(self) -> None:
        self._at_rest += 1
        if self._at_rest == self._putters:
            print("paused", flush=True)
        await self._going_on.wait()
        self._at_rest -= 1

    def _drawn(self) -> NewTask:
        id = ObjectId()
        job = work.drawn(id, self._load, self._dice)
        options = self._job.options(
            id=id, delay_s=work.delay_s(self._load, self._dice), max_attempts=1 if job.once else ATTEMPTS
        )
        return options.new(job.mark, job.work_ms, job.fails, job.reports, job.once)

    async def _store(self, tasks: Sequence[NewTask], *, again: bool) -> None:
        ids = [str(one.id) for one in tasks]
        while True:
            self._pen.write(event.Tried(at=time.monotonic(), ids=ids))
            try:
                await self._app.put_many(tasks)
            except OutcomeUnknown as error:
                stored = [str(one.id) for one in error.stored] if isinstance(error, PutUnknown) else []
                rest = [id for id in ids if id not in stored]
                if stored:
                    self._pen.write(event.Acked(at=time.monotonic(), ids=stored))
                self._pen.write(event.Unknown(at=time.monotonic(), ids=rest, why=str(error)[:200]))
            except StoreError as error:
                self._pen.write(event.Refused(at=time.monotonic(), ids=ids, why=str(error)[:200]))
            else:
                self._pen.write(event.Acked(at=time.monotonic(), ids=ids))
                return
            if not again:
                return
            await trio.sleep(AGAIN_S)


async def _job(mark: str, work_ms: int = 0, fails: bool = False, reports: int = 0, once: bool = False) -> None:
    raise AssertionError("it runs in the workers")


def main() -> None:
    """Run it."""
    lifeline.hold()
    given = orders.given()
    mutants.become(given.mutants)
    pen, start = Pen(given.path), Start()
    start.run(lambda: trio.run(Producer(given, pen, start).run))


if __name__ == "__main__":
    main()
