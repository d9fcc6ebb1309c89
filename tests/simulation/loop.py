"""One trio run loop, stepped by hand: a simulated process. Many of them live in one thread, on clocks of the caller's.

A process that is frozen is one that is not stepped; what comes for it waits. That is what SIGSTOP does, timers
included, and what no gate around its calls could do. trio drives its own loop by the same two calls (`trio.run`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Protocol, TypeVar, cast

import trio
from trio._core import _run

T = TypeVar("T")

CONTEXT: Any = _run.GLOBAL_RUN_CONTEXT


class Time(Protocol):
    """Where loops read the time."""

    now: float


class Clock(trio.abc.Clock):
    """A process's monotonic clock: the world's time, from a zero of its own."""

    def __init__(self, time: Time, offset_s: float) -> None:
        self._time = time
        self.offset_s = offset_s

    def start_clock(self) -> None:
        """It runs already."""

    def current_time(self) -> float:
        """Return the process's time."""
        return self._time.now + self.offset_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long it is until then."""
        return deadline - self.current_time()


class NoIO:
    """There is none to wait for."""

    def process_events(self, events: object) -> None:
        """Nothing has happened."""

    def force_wakeup(self) -> None:
        """Whoever steps the loop looks for itself."""

    def close(self) -> None:
        """Nothing is open."""


class Wakeup:
    """What trio tells itself by a pair of sockets: that a callback of its token waits."""

    def __init__(self) -> None:
        self._lot = trio.lowlevel.ParkingLot()

    def wakeup_thread_and_signal_safe(self) -> None:
        """Say so."""
        self._lot.unpark_all()

    async def wait_woken(self) -> None:
        """Wait until it is said."""
        await self._lot.park()

    def close(self) -> None:
        """Nothing is open."""


class Loop:
    """Runs `main` as it is stepped. `dice` are what the process throws."""

    here: Loop | None = None
    """The one that runs just now."""

    def __init__(self, time: Time, offset_s: float, dice: Random, main: Callable[[], Awaitable[object]]) -> None:
        self.clock = Clock(time, offset_s)
        self.dice = dice
        self.over = False
        self._time = time
        hooks = sys.get_asyncgen_hooks()
        self._runner = runner = cast(Any, _run.setup_runner(self.clock, (), False, True))
        sys.set_asyncgen_hooks(*hooks)  # those of one loop would be called for another's
        runner.ki_manager.close()
        runner.io_manager.close()
        runner.io_manager = NoIO()
        runner.entry_queue.wakeup.close()
        runner.entry_queue.wakeup = Wakeup()
        self._steps = _run.unrolled_run(runner, main, (), host_uses_signal_set_wakeup_fd=True)
        CONTEXT.__dict__.clear()
        self._begun = False

    @property
    def due_at(self) -> float:
        """When it has something to do, by the world's time."""
        if self._runner.runq or not self._begun:
            return -math.inf
        deadline = self._runner.deadlines.next_deadline()
        if deadline == math.inf:
            return math.inf
        at: float = deadline - self.clock.offset_s
        while at + self.clock.offset_s < deadline:  # rounding must not end a wait before its time, for ever
            at = math.nextafter(at, math.inf)
        return at

    def act(self, action: Callable[[], T]) -> T:
        """Let `action` happen in the process, outside of its tasks."""
        before, outer = Loop.here, dict(CONTEXT.__dict__)
        Loop.here = self
        CONTEXT.__dict__.clear()
        CONTEXT.runner = self._runner
        try:
            return action()
        finally:
            CONTEXT.__dict__.clear()
            CONTEXT.__dict__.update(outer)
            Loop.here = before

    def step(self) -> None:
        """Let every task that can run do so once."""
        Loop.here = self
        CONTEXT.runner = self._runner
        try:
            if self._begun:
                self._steps.send(())  # type: ignore[arg-type]
            else:
                self._begun = True
                next(self._steps)
        except StopIteration:
            self.over = True
        finally:
            CONTEXT.__dict__.clear()
            Loop.here = None

    @property
    def error(self) -> BaseException | None:
        """What `main` has ended with, once it is over."""
        return getattr(self._runner.main_task_outcome, "error", None)


@contextmanager
def shuffled(seed: int) -> Iterator[None]:
    """Let the order of tasks in a step come from `seed`: trio's own switch, made for hypothesis."""
    scheduling: Any = _run
    before = scheduling._ALLOW_DETERMINISTIC_SCHEDULING, scheduling._r.getstate()
    scheduling._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduling._r.seed(seed)
    try:
        yield
    finally:
        scheduling._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        scheduling._r.setstate(before[1])
