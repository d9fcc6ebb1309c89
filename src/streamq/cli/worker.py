"""`streamq worker MODULE:APP`: run the handlers of an app until told to stop."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import trio
from cyclopts import Parameter

from streamq.app import CONCURRENCY, StreamQ
from streamq.cli import lifeline
from streamq.cli.locate import located
from streamq.cli.logs import log_to_stderr
from streamq.cli.place import SERVER, Server
from streamq.cli.stopping import Stopping, stopping
from streamq.cli.supervisor import Supervisor
from streamq.collector import spare_what_is_there
from streamq.core.options import require_count, require_delay_s, require_queue
from streamq.errors import UsageError

GRACE_S: Final = 8.0
"""With the time for giving back it ends within the 10 s after which Docker kills a container."""

AT_ONCE_S: Final = 1.0


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
    grace: Annotated[float, Parameter(help="Seconds that what runs may go on after SIGTERM or Ctrl-C.")] = GRACE_S,
    procs: Annotated[int, Parameter(help="Worker processes; each has slots of its own.")] = 1,
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Parameter(help="What to log.")] = "info",
    place: Server = SERVER,
) -> None:
    """Run the handlers of an app.

    SIGTERM or Ctrl-C stops it in good order: nothing more begins, and what runs may end within the grace. Then async
    handlers are cancelled, those in threads are waited for, and what had not ended is given back to the queue
    uncounted. A second signal ends it at once, within a second.
    """
    require_count(concurrency, "--concurrency")
    require_delay_s(grace, "--grace")
    if require_count(procs, "--procs", most=1_000) > 1:
        queued = [part for one in queue for part in ("--queue", one)]
        numbers = ["--concurrency", str(concurrency), "--grace", str(grace), "--log-level", log_level]
        _queues(queue, concurrency)
        Supervisor(["worker", app, *queued, *numbers, *place.arguments()], procs, place.environment()).run()
        return
    lifeline.hold(grace)
    place = place.told()
    queues = _queues(queue, concurrency)
    with stopping(linger_s=AT_ONCE_S) as state:
        found = located(app)
        if not found.handlers:
            raise UsageError(f"{app} has no handlers: declare some with @app.task (in modules that it imports)")
        place.move(found)
        log_to_stderr(log_level)
        spare_what_is_there()
        try:
            trio.run(_work, found, queues, concurrency, grace, state)
        finally:
            found.close()


async def _work(app: StreamQ, queues: dict[str, int] | None, concurrency: int, grace_s: float, state: Stopping) -> None:
    stop = trio.Event()
    with trio.CancelScope() as scope, state.asking(stop.set, scope.cancel):
        async with app:
            await app.work(queues, concurrency=concurrency, stop=stop, grace_s=grace_s)


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
