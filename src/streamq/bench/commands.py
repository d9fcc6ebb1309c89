"""Commands that a process sends to the server, counted by the driver's own events. The driver's monitoring of the
server is not among them."""

from __future__ import annotations

import threading
from collections import Counter

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent


class Commands(CommandListener):
    """Counts by name. The driver calls it from any thread."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def started(self, event: CommandStartedEvent) -> None:
        """Count one."""
        name = event.command_name
        if name == "aggregate" and "$changeStream" in str(event.command.get("pipeline", "")):
            name = "aggregate (stream)"
        with self._lock:
            self._counts[name] += 1

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """It was counted when it began."""

    def failed(self, event: CommandFailedEvent) -> None:
        """It was counted when it began."""

    def clear(self) -> None:
        """Begin anew."""
        with self._lock:
            self._counts.clear()

    def counts(self) -> dict[str, int]:
        """Commands by name."""
        with self._lock:
            return dict(self._counts)
