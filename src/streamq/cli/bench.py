"""`streamq bench`: measure streamq beside plain PyMongo. Each scenario is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from cyclopts import App

NAME: Final = "bench"

SCENARIOS: Final[Mapping[str, str]] = {
    "latency": "From a put's call to the handler's first line, mostly idle.",
    "load": "The same under load.",
    "throughput": "Tasks a second from put to settled.",
    "drain": "Tasks a second of what waits, by one process and by several.",
    "puts": "Single puts a second of many trio tasks.",
    "backlog": "Claims a second with much waiting behind them.",
    "delayed": "How soon after they are due delayed tasks run.",
    "lease": "How soon a task is taken over whose holder was killed.",
    "idle": "What an idle worker costs.",
    "fanout": "What a put costs with many idle processes that would like it.",
    "consumers": "Many consumers in one process.",
    "memory": "Memory over many tasks.",
    "startup": "Import, and a worker's start to its first claim.",
}


def bench(arguments: Sequence[str] = ()) -> App:
    """Build the command with its scenarios. One that `arguments` name is described by itself, at length."""
    app = App(
        name=NAME,
        help="Measure streamq beside plain PyMongo, on an embedded server or one on this machine; see bench/README.md.",
    )
    for place, (name, about) in enumerate(SCENARIOS.items()):
        more = {} if name in arguments else {"help": about}
        app.command(f"streamq.bench.scenarios.{name}:{name}", name=name, sort_key=place, **more)
    app.command("streamq.bench.compare:compare", name="compare", help="Two answers side by side.", sort_key=99)
    return app


def missing(error: ModuleNotFoundError) -> str | None:
    """Say what to install when a bench lacks its extra; None when something else is missing."""
    if (error.name or "").partition(".")[0] in ("hdrh", "matplotlib"):
        return f"the benchmarks need {error.name}: pip install 'streamq[bench]'"
    return None
