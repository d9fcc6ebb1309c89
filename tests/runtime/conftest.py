"""The runtime's tests run under trio's autojump clock: no threads, no real time, an hour passes at once."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

LONGEST_S: Final = 1_000_000.0
"""Virtual seconds after which a test that still waits has hung: without it the clock would jump for ever."""

LONGEST_REAL_S: Final = 60.0
"""Real seconds after which a test has hung inside a shield, where the virtual limit cannot reach it."""


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

    def hung(*_: object) -> None:
        raise TimeoutError(f"the test hung for {LONGEST_REAL_S:g} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_REAL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
