"""One run of a scenario: its time, its server, its processes, its turns, and its answer."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Final

from streamq.bench import place
from streamq.bench.budget import Budget, OutOfTime
from streamq.bench.cast import Actor, Cast, Late, wait_any
from streamq.bench.machine import machine
from streamq.bench.options import Common
from streamq.bench.place import Place
from streamq.bench.result import CONTENDERS, Figures, Result
from streamq.bench.screen import Bar, progress, show
from streamq.core.notice import WakeBy

SLACK: Final = 1.2
"""A further turn is begun if so many times the longest one so far fits into the time left."""


class Run:
    """What a scenario's function works with."""

    def __init__(self, budget: Budget, cast: Cast, uri: str, bar: Bar) -> None:
        self.budget = budget
        self.cast = cast
        self.uri = uri
        self.bar = bar
        self.unfinished: list[str] = []
        self.result: Result | None = None

    @property
    def until(self) -> float:
        """When all measuring must have ended, by `time.monotonic`."""
        return self.budget.until

    def place(self, wake: WakeBy = "stream") -> AbstractContextManager[Place]:
        """Make a database for one round; it is dropped after."""
        return place.made(self.uri, wake)

    def turns(self, count: int, contenders: tuple[str, ...] = CONTENDERS) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Yield `count` turns: their numbers, and the contenders, who begin alternately. Fewer when time is short."""
        self.bar.begin("round 1", count)
        longest_s = 0.0
        for number in range(count):
            began_at = time.monotonic()
            if self.budget.left_s < longest_s * SLACK or not self.budget.left_s:
                self.undone(f"{count - number} of {count} rounds")
                return
            self.bar.say(f"round {number + 1}")
            first = number % len(contenders)
            yield number, (*contenders[first:], *contenders[:first])
            longest_s = max(longest_s, time.monotonic() - began_at)
            self.bar.step()

    def undone(self, what: str) -> None:
        """Note what there was no time for."""
        self.unfinished.append(what)

    def short(self, what: str, done: int, wanted: int) -> None:
        """Note it when not all was done."""
        if done < wanted:
            self.undone(f"{what}: {done:,} of {wanted:,}")

    def until_told(self, actors: Sequence[Actor], total: int) -> None:
        """Wait until the actors have said that together they did `total`, or have ended, or the time is over."""
        while sum(one.told or 0 for one in actors) < total and (left_s := self.budget.left_s) > 0:
            wait_any(actors, min(left_s, 0.5))
            ended = [one.look() for one in actors]
            if all(ended):
                return

    def found(
        self,
        ratios: dict[str, float | None],
        figures: dict[str, Figures],
        **more: Any,
    ) -> None:
        """Say what was found; called again it replaces what was said before. `histograms`, `tracks` and `track_of`
        are those of `Result`."""
        named = {name: more.pop(name) for name in ("histograms", "tracks", "track_of") if name in more}
        self.result = Result("", {}, ratios, figures, more, **named)


@contextmanager
def running(scenario: str, common: Common, duration_s: float, options: Figures) -> Iterator[Run]:
    """Let the block measure, then print what it found. `duration_s` is for runs that do not say theirs.

    The answer is printed also when the time was over before the block's end, with what had been found by then.
    """
    budget = Budget(duration_s if common.duration is None else common.duration)
    began_at = datetime.now(UTC).isoformat(timespec="seconds")
    run: Run | None = None
    about: Figures = {}
    unfinished: list[str] = []
    with _ended_in_order(), budget.enforced():
        try:
            with (
                place.server(common.uri, own=common.i_own_this_server, nodes=common.nodes) as uri,
                progress(scenario) as bar,
            ):
                about = machine(uri)
                cast = Cast(budget.until)
                run = Run(budget, cast, uri, bar)
                try:
                    yield run
                except Late as error:
                    run.undone(str(error))
                finally:
                    cast.close()
        except OutOfTime as error:
            unfinished.append(str(error))
    result = (run and run.result) or Result(scenario, {}, {}, {})
    result.scenario, result.options, result.machine = scenario, options, about
    result.unfinished = [*(run.unfinished if run else ()), *unfinished]
    result.began_at, result.took_s = began_at, round(budget.took_s, 2)
    _put_out(result, common)


def _put_out(result: Result, common: Common) -> None:
    show(result, to_stderr=common.json)
    for path in (common.svg, common.png):
        if path is not None:
            from streamq.bench.plot import plot  # matplotlib takes half a second

            plot(result, path)
    if common.json:
        print(result.line(), flush=True)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does: the database is dropped."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
