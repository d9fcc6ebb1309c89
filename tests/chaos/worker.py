"""A worker: `python -m tests.chaos.worker ORDERS`. Runs handlers until SIGTERM, with its safety scan off: a wake that
was lost shows as a task that never runs."""

from __future__ import annotations

import signal
import time

import trio

from streamq import StreamQ, current_task, progress
from streamq.bridge import ThreadBridge
from tests.chaos import event, lifeline, mutants, orders
from tests.chaos.history import Pen
from tests.chaos.orders import HANDLER, QUEUE, Orders
from tests.chaos.producer import RETRY
from tests.chaos.recording import RecordingStore
from tests.chaos.start import Start
from tests.chaos.work import Job


class JobFailed(Exception):
    """As the payload asked for."""


async def run(given: Orders, pen: Pen, start: Start) -> None:
    """Work until SIGTERM."""
    store = RecordingStore.connect(given.uri, given.database)
    assert isinstance(store, RecordingStore)
    store.pen = pen
    app = StreamQ.on(
        store, ThreadBridge(), lease_s=given.load.lease_s, safety_scan_s=None, retry=RETRY, worker_id=given.path.stem
    )

    @app.task(queue=QUEUE, name=HANDLER, retry=RETRY)
    async def job(mark: str, work_ms: int = 0, fails: bool = False, reports: int = 0, once: bool = False) -> str:
        task = current_task()
        id, claim = str(task.id), task.claim_id.hex()
        pen.write(
            event.Began(at=time.monotonic(), id=id, claim=claim, attempt=task.attempt, once=task.max_attempts == 1)
        )
        how = "cancelled"
        try:
            part_s = Job(mark, work_ms, fails, reports, once).part_s
            for number in range(reports):
                await trio.sleep(part_s)
                await progress(number)
            await trio.sleep(part_s)
            if fails and task.attempt == 1:
                how = "raised"
                raise JobFailed(mark)
            how = "done"
        finally:
            pen.write(event.Ended(at=time.monotonic(), id=id, claim=claim, how=how))
        return mark

    try:
        async with app, trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: app.work({QUEUE: given.load.slots}, task_status=task_status))
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                start.ready()
                await anext(signals)
            nursery.cancel_scope.cancel()
    finally:
        store.close()


def main() -> None:
    """Run it."""
    lifeline.hold()
    given = orders.given()
    mutants.become(given.mutants)
    pen, start = Pen(given.path), Start()
    start.run(lambda: trio.run(run, given, pen, start))


if __name__ == "__main__":
    main()
