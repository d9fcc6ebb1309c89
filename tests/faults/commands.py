"""What happens at a client's commands, by the driver's own monitoring: the product knows nothing of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

When = Literal["before", "after"]

QUIET: Final = frozenset({"hello", "ping", "endSessions", "killCursors", "buildInfo"})
"""Commands whose loss nobody notices."""


class Place(NamedTuple):
    """A place in a run: before its `nth` command is sent, or after the answer to it has come."""

    nth: int
    when: When

    def __str__(self) -> str:
        return f"{self.when} command {self.nth}"


def all_of(count: int) -> list[Place]:
    """List each place in a run of so many commands."""
    return [Place(nth, when) for nth in range(1, count + 1) for when in ("before", "after")]


class Answered(CommandListener):
    """Hears of the end of commands, however they end."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """See `CommandListener`."""
        self.answered(event.request_id)

    def failed(self, event: CommandFailedEvent) -> None:
        """See `CommandListener`."""
        self.answered(event.request_id)

    def answered(self, request_id: int) -> None:
        """Hear that the answer to a command is there."""
        raise NotImplementedError


class AtCommand(Answered):
    """Counts commands; calls `then` before the `nth` is sent, or after its answer has come."""

    def __init__(self, nth: int, when: When, then: Callable[[], None]) -> None:
        self.count = 0
        self._nth = nth
        self._when = when
        self._then = then
        self._last: int | None = None
        self._lock = threading.Lock()

    def started(self, event: CommandStartedEvent) -> None:
        """See `CommandListener`."""
        if event.command_name in QUIET:
            return
        with self._lock:
            self.count += 1
            if self.count != self._nth:
                return
            self._last = event.request_id
        if self._when == "before":
            self._then()

    def answered(self, request_id: int) -> None:
        """See `Answered`."""
        if request_id == self._last and self._when == "after":
            self._then()
