"""A worker to be frozen: `python -m tests.faults.frozen URI DATABASE LOG`. Writes down what it runs, and
that its stream was lost. SIGTERM ends it."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

import trio

from streamq import StreamQ
from tests.chaos import lifeline
from tests.faults.script import Pen


class Lost(logging.Handler):
    """Writes down that the stream was lost, when the worker says so."""

    def __init__(self, pen: Pen) -> None:
        super().__init__()
        self._pen = pen

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if record.getMessage().startswith("stream lost"):
            self._pen.write("lost")


async def run(uri: str, database: str, pen: Pen) -> None:
    """Work until SIGTERM."""
    logging.getLogger("streamq").addHandler(Lost(pen))
    app = StreamQ(uri, database=database, safety_scan_s=None)
    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(take, app, pen)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            await anext(signals)
        nursery.cancel_scope.cancel()


async def take(app: StreamQ, pen: Pen) -> None:
    """Write each task down."""
    async with app.queue("default").consume() as tasks:
        async for task in tasks:
            pen.write(task.info.id)
            await task.succeed()


if __name__ == "__main__":
    lifeline.hold()
    trio.run(run, sys.argv[1], sys.argv[2], Pen(Path(sys.argv[3])))
