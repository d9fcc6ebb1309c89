"""The runtime's tests run under trio's autojump clock: no threads, no real time, an hour passes at once."""

from __future__ import annotations

import inspect
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

LONGEST_S: Final = 1_000_000.0
"""Virtual seconds after which a test that still waits has hung: without it the clock would jump for ever."""

LONGEST_REAL_S: Final = 60.0
"""Real seconds in which a test that does next to nothing has hung inside a shield, where the virtual limit cannot reach
it. On a busy machine one that does a lot may take longer."""

MOST_REAL: Final = 10
"""So many times as long, whatever it does."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.trio(run=run_in_virtual_time))


def run_in_virtual_time(
    test: Callable[[], Awaitable[None]], *, clock: None, instruments: Sequence[trio.abc.Instrument]
) -> Any:
    """Run a test on a clock that jumps to the next deadline when all wait."""

    async def bounded() -> None:
        with trio.fail_after(LONGEST_S):
            await test()

    return trio.run(bounded, clock=trio.testing.MockClock(autojump_threshold=0), instruments=instruments)


@pytest.fixture(autouse=True)
def real_limit() -> Iterator[None]:
    """End a test that hangs by an error in the middle of it."""

    worked_s = [time.process_time()]

    def hung(*_: object) -> None:
        worked_s.append(time.process_time())
        if worked_s[-1] - worked_s[-2] < 1 or len(worked_s) > MOST_REAL:
            raise TimeoutError(f"the test hung for {LONGEST_REAL_S:g} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_REAL_S, LONGEST_REAL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
