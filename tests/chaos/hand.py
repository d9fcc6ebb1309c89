"""A worker without trio: `python -m tests.chaos.hand ORDERS`. A few threads, each with a loop of claim, work, settle.

Nothing cancels its work, and its leases are extended only when a task reports, by its own thread: what it extends,
reports or settles too late only the fence refuses.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time

from streamq import BlockingTask, LeaseLost, StoreError, StreamQ
from tests.chaos import event, lifeline, mutants, orders
from tests.chaos.history import Pen
from tests.chaos.orders import QUEUE, Orders
from tests.chaos.producer import RETRY
from tests.chaos.recording import RecordingStore
from tests.chaos.work import Job, job_of

THREADS = 3
WAIT_S = 3_600.0
"""So long that nothing but a wake makes it look again: one that was lost is to show."""

PAUSE_S = 0.1


class Hand:
    """One process's claims."""

    def __init__(self, given: Orders, pen: Pen) -> None:
        self._pen = pen
        self._store = RecordingStore.connect(given.uri, given.database)
        assert isinstance(self._store, RecordingStore)
        self._store.pen = pen
        self._app = StreamQ(client=self._store.client, database=given.database, lease_s=given.load.lease_s, retry=RETRY)
        self._app._store = self._store
        self._stopping = threading.Event()
        self._busy = 0
        self._changed = threading.Condition()

    def run(self) -> None:
        """Work until SIGTERM; then end what was begun. Who waits for a task is left waiting."""
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        for _ in range(THREADS):
            threading.Thread(target=self._work, daemon=True).start()
        print("ready", flush=True)
        while not self._stopping.wait(3_600):
            pass
        with self._changed:
            self._changed.wait_for(lambda: self._busy == 0)

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                task = self._app.blocking.queue(QUEUE).claim(wait_s=WAIT_S)
            except StoreError:
                time.sleep(PAUSE_S)
                continue
            if task is not None:
                self._count(1)
                self._do(task)
                self._count(-1)

    def _count(self, more: int) -> None:
        with self._changed:
            self._busy += more
            self._changed.notify_all()

    def _do(self, task: BlockingTask) -> None:
        id, claim = str(task.info.id), task.info.claim_id.hex()
        self._pen.write(
            event.Began(
                at=time.monotonic(), id=id, claim=claim, attempt=task.info.attempt, once=task.info.max_attempts == 1
            )
        )
        job = job_of(task.payload)
        try:
            self._keep_on(task, job)
        except LeaseLost:
            self._pen.write(event.Ended(at=time.monotonic(), id=id, claim=claim, how="lost"))
            return
        self._pen.write(event.Ended(at=time.monotonic(), id=id, claim=claim, how="done"))
        with contextlib.suppress(LeaseLost, StoreError):  # its lease ends by itself
            if job.fails and task.info.attempt == 1:
                task.fail("as the payload asks for")
            else:
                task.succeed(job.mark)

    def _keep_on(self, task: BlockingTask, job: Job) -> None:
        """Work, and say how far it is. Raises `LeaseLost`; who does not hear whether it was extended works on."""
        for number in range(job.reports):
            time.sleep(job.part_s)
            with contextlib.suppress(StoreError):
                task.extend()
            with contextlib.suppress(StoreError):
                task.progress(number)
        time.sleep(job.part_s)


def main() -> None:
    """Run it."""
    lifeline.hold()
    given = orders.given()
    mutants.become(given.mutants)
    Hand(given, Pen(given.path)).run()


if __name__ == "__main__":
    main()
