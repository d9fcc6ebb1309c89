"""`streamq worker MODULE:APP`: run the handlers of an app until told to stop."""

from __future__ import annotations

from typing import Annotated, Literal

import trio
from cyclopts import Parameter

from streamq.app import CONCURRENCY, StreamQ
from streamq.cli.locate import located
from streamq.cli.logs import log_to_stderr
from streamq.cli.place import HERE, Place
from streamq.cli.stopping import Stopping, stopping
from streamq.core.options import require_count, require_queue
from streamq.errors import UsageError


def worker(
    app: Annotated[str, Parameter(help="Where the app is: MODULE:APP, e.g. shop:app.")],
    /,
    *,
    queue: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            show_default=False,
            help="Work on this queue only: NAME, or NAME=N for N tasks at once. May be repeated.",
        ),
    ] = (),
    concurrency: Annotated[int, Parameter(help="Tasks that run at once, of each queue.")] = CONCURRENCY,
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Parameter(help="What to log.")] = "info",
    place: Place = HERE,
) -> None:
    """Run the handlers of an app.

    SIGTERM or Ctrl-C stops it in good order: async handlers are cancelled, those in threads are waited for, and what
    had not ended is given back to the queue uncounted. A second signal ends it at once.
    """
    require_count(concurrency, "--concurrency")
    queues = _queues(queue, concurrency)
    with stopping() as state:
        found = located(app)
        if not found.handlers:
            raise UsageError(f"{app} has no handlers: declare some with @app.task (in modules that it imports)")
        place.move(found)
        log_to_stderr(log_level)
        try:
            trio.run(_work, found, queues, concurrency, state)
        finally:
            found.close()


async def _work(app: StreamQ, queues: dict[str, int] | None, concurrency: int, state: Stopping) -> None:
    with state.cancelling():
        async with app:
            await app.work(queues, concurrency=concurrency)


def _queues(given: tuple[str, ...], concurrency: int) -> dict[str, int] | None:
    """Read `--queue images=32 --queue mail`; None when there is none: then all."""
    queues: dict[str, int] = {}
    for one in given:
        name, equals, count = one.partition("=")
        require_queue(name)
        if equals and not (count.isascii() and count.isdigit()):
            raise UsageError(f"--queue {one!r} is refused: expected NAME or NAME=N, e.g. images=32")
        queues[name] = require_count(int(count) if equals else concurrency, f"--queue {name}")
    return queues or None
