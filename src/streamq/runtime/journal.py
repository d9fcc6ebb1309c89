"""What happened: every event once, with its level and fields, to the logger `streamq`; and how often."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, Final

LOGGER: Final = logging.getLogger("streamq")

TOLD_KEPT: Final = 1_000

LEVELS: Final = {
    "worker started": logging.INFO,
    "worker stopping": logging.INFO,
    "grace is over": logging.WARNING,
    "waiting for threads": logging.WARNING,
    "worker stopped": logging.INFO,
    "task failed": logging.WARNING,
    "task will be retried": logging.INFO,
    "task cancelled": logging.INFO,
    "lease lost": logging.WARNING,
    "leases no longer trusted": logging.WARNING,
    "settlements unknown": logging.ERROR,
    "task cannot be moved": logging.ERROR,
    "schedule cannot be fired": logging.ERROR,
    "slot skipped": logging.WARNING,
    "settlement refused": logging.ERROR,
    "claim unknown": logging.WARNING,
    "thread left behind": logging.WARNING,
    "stream lost, trying again": logging.WARNING,
    "stream open again": logging.INFO,
    "wake channel lost, trying again": logging.WARNING,
    "store error": logging.WARNING,
    "indexes missing": logging.ERROR,
    "lease expired": logging.WARNING,
    "tasks expired": logging.INFO,
    "tasks outlived": logging.INFO,
}
"""Events that are logged; the others (claims, successes, ticks) are only counted: a queue under load would drown
its own log."""


class Journal:
    """One per app."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._told: set[object] = set()

    def write(self, event: str, *, traceback: str = "", **fields: Any) -> None:
        """Note `event`; fields are shown as `name=value`, a traceback as that of an exception is."""
        self.counts[event] += 1
        level = LEVELS.get(event)
        if level is not None and LOGGER.isEnabledFor(level):
            shown = " ".join(f"{name}={value}" for name, value in fields.items())
            record = LOGGER.makeRecord(LOGGER.name, level, __file__, 0, "%s %s", (event, shown), None, "write")
            record.exc_text = traceback.rstrip() or None
            LOGGER.handle(record)

    def write_once(self, event: str, key: object, **fields: Any) -> None:
        """Note `event` the first time it comes with this key: it would come back at every look."""
        if key not in self._told:
            if len(self._told) >= TOLD_KEPT:
                self._told.clear()
            self._told.add(key)
            self.write(event, key=key, **fields)

    def add(self, event: str, count: int) -> None:
        """Count without a word."""
        self.counts[event] += count

    def debug(self, event: str, **fields: Any) -> None:
        """Say what happens all the time, to who asked for it."""
        if LOGGER.isEnabledFor(logging.DEBUG):
            LOGGER.debug("%s %s", event, " ".join(f"{name}={value}" for name, value in fields.items()))
