"""An alarm: one instant to sleep until, which may be put earlier meanwhile; after an error, later each time."""

from __future__ import annotations

import trio

from streamq.runtime import clock
from streamq.runtime.pauses import Pauses


class Alarm:
    """One task waits for it, any may set it. `at` is by `clock.now`; infinity: not set."""

    def __init__(self, at: float) -> None:
        self._at = at
        self._sleep: trio.CancelScope | None = None
        self._pauses = Pauses()

    def sooner(self, at: float) -> None:
        """Let it go off at `at`, unless it does before."""
        self._at = min(self._at, at)
        if self._sleep is not None:
            self._sleep.deadline = self._at

    async def wait(self) -> None:
        """Sleep until it goes off; it is not set then. Cancellation: safe, it stays set."""
        with trio.CancelScope(deadline=self._at) as self._sleep:
            await trio.sleep_forever()
        self._at = float("inf")

    def went_well(self) -> None:
        """The next error begins with the shortest pause again."""
        self._pauses.went_well()

    def failed(self) -> None:
        """Let it go off after a pause."""
        self.sooner(clock.now() + self._pauses.next_s())
