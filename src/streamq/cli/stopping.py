"""SIGINT and SIGTERM: the first one stops in good order, the second ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import trio

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """Which signal came first (None while none came), and what it stops."""

    def __init__(self, stop: Callable[[], object] | None) -> None:
        self.by: signal.Signals | None = None
        self._stop = stop

    def hear(self, number: int) -> None:
        """Note a first signal and stop what there is to stop."""
        self.by = signal.Signals(number)
        if self._stop is not None:
            self._stop()

    @contextmanager
    def cancelling(self) -> Iterator[trio.CancelScope]:
        """Cancel the body when a signal comes, or has come already. Inside a trio run."""
        token = trio.lowlevel.current_trio_token()

        def stop() -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(scope.cancel)

        with trio.CancelScope() as scope:
            self._stop = stop
            if self.by is not None:
                scope.cancel()
            yield scope


@contextmanager
def stopping(
    stop: Callable[[], object] | None = None, at_once: Callable[[], object] = lambda: None
) -> Iterator[Stopping]:
    """Call `stop` at the first signal; at the second call `at_once` and die of it. For the main thread.

    A plain handler, not trio's receiver: it is heard even while a handler of the user's keeps the event loop busy.
    `stop` may run between any two steps of the program: it should only leave a note.
    """
    state = Stopping(stop)

    def hear(number: int, frame: FrameType | None) -> None:
        if state.by is None:
            state.hear(number)
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
