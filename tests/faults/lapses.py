"""Leases that end under their holders: only a very busy machine makes that happen here, and it excuses a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from streamq.runtime.journal import Journal

EVENTS: Final = frozenset({"leases no longer trusted", "lease lost", "settlements unknown"})


class Lapses(Journal):
    """Tells of them: `lapse` is called with how many ended at a time."""

    def __init__(self, lapse: Callable[[int], object]) -> None:
        super().__init__()
        self._lapse = lapse

    def write(self, event: str, *, traceback: str = "", **fields: Any) -> None:
        """See `Journal.write`."""
        if event in EVENTS:
            self._lapse(int(fields.get("tasks", 1)))
        super().write(event, traceback=traceback, **fields)
