"""Which fault explains that a task was run twice. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Set

import msgspec

from tests.chaos.event import AnyEvent, Healed, Struck


class Window(msgspec.Struct, frozen=True):
    """From when to when a fault was there."""

    fault: str
    from_s: float
    to_s: float


def windows(history: Iterable[AnyEvent]) -> list[Window]:
    """Return the faults of a run in their order; one that was not healed lasts for ever."""
    events = sorted((one for one in history if isinstance(one, Struck | Healed)), key=lambda one: one.at)
    return [
        Window(
            one.fault,
            one.at,
            next(
                (after.at for after in events[at:] if isinstance(after, Healed) and after.fault == one.fault), INFINITY
            ),
        )
        for at, one in enumerate(events)
        if isinstance(one, Struck)
    ]


INFINITY = float("inf")

AFTERMATH_S = 5.0
"""What a fault leaves behind: a primary that was frozen serves on until a heartbeat tells it that it was replaced, and
what it serves is rolled back. Two heartbeats and the lease of a run."""


class Excuses:
    """The faults of a run. Each excuses one repetition of a task, if it was there while the first run was on: the first
    run began before its aftermath was over, and the second began after it had struck."""

    def __init__(self, history: Iterable[AnyEvent]) -> None:
        self._windows = windows(history)

    def find(self, first_at: float, second_at: float, spent: Set[int]) -> int | None:
        """Return the number of a fault that explains it and is not `spent`."""
        for number, window in enumerate(self._windows):
            if number not in spent and window.from_s <= second_at and first_at <= window.to_s + AFTERMATH_S:
                return number
        return None
