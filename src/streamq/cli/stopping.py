"""SIGINT and SIGTERM: the first one stops in good order, the second ends the process at once.

"At once" may leave a moment (`linger_s`) in which what is held goes back; the process then ends by its own doing, or
dies of the signal. A third signal kills it whatever it does.
"""

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
        self._again: Callable[[], object] | None = None

    def hear(self, number: int) -> None:
        """Note a first signal and stop what there is to stop."""
        self.by = signal.Signals(number)
        if self._stop is not None:
            self._stop()

    def hear_again(self) -> None:
        """Hurry what is stopping."""
        if self._again is not None:
            self._again()

    @contextmanager
    def asking(self, stop: Callable[[], object], hurry: Callable[[], object]) -> Iterator[None]:
        """Call `stop` in trio's thread when a signal comes, or has come already, and `hurry` at a second one."""
        token = trio.lowlevel.current_trio_token()

        def soon(what: Callable[[], object]) -> Callable[[], None]:
            def call() -> None:
                with contextlib.suppress(trio.RunFinishedError):
                    token.run_sync_soon(what)

            return call

        self._stop, self._again = soon(stop), soon(hurry)
        if self.by is not None:
            stop()
        yield

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
    stop: Callable[[], object] | None = None,
    at_once: Callable[[], object] = lambda: None,
    linger_s: float = 0.0,
) -> Iterator[Stopping]:
    """Call `stop` at the first signal; at the second call `at_once` and die of it, `linger_s` later. For the main
    thread.

    A plain handler, not trio's receiver: it is heard even while a handler of the user's keeps the event loop busy.
    `stop` may run between any two steps of the program: it should only leave a note.
    """
    state = Stopping(stop)

    def hear(number: int, frame: FrameType | None) -> None:
        if state.by is None:
            state.hear(number)
            return
        at_once()
        for one in SIGNALS:
            signal.signal(one, signal.SIG_DFL)
        if not linger_s:
            os.kill(os.getpid(), number)
        state.hear_again()
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
        signal.setitimer(signal.ITIMER_REAL, linger_s)

    before = {one: signal.signal(one, hear) for one in SIGNALS}
    try:
        yield state
    finally:
        if linger_s:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for one, handler in before.items():
            signal.signal(one, handler)
