"""SIGINT and SIGTERM: the first one stops in good order, the second ends the process at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """Which signal came first; None while none came."""

    def __init__(self) -> None:
        self.by: signal.Signals | None = None


@contextmanager
def stopping(stop: Callable[[], object], at_once: Callable[[], object] = lambda: None) -> Iterator[Stopping]:
    """Call `stop` at the first signal; at the second call `at_once` and die of it. For the main thread.

    A plain handler, not trio's receiver: it is heard even while a handler of the user's keeps the event loop busy.
    `stop` may run between any two steps of the program: it should only leave a note.
    """
    state = Stopping()

    def hear(number: int, frame: FrameType | None) -> None:
        if state.by is None:
            state.by = signal.Signals(number)
            stop()
            return
        at_once()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = {one: signal.signal(one, hear) for one in SIGNALS}
    try:
        yield state
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
