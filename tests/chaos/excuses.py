"""Which fault explains that a task was run twice. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

import msgspec

from tests.chaos.event import AnyEvent, Healed, Struck
from tests.chaos.silence import Silence, server_outs


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


class Excuses:
    """The faults of a run. Each excuses one repetition of a task, if it was there while the first claim was: that was
    asked for before it was over, and the second run began after it had struck.

    The claim counts, not the run: what a primary gave that was replaced is rolled back while its tasks wait for a slot
    or are run. And a fault is there as long as the server is out by it: when all nodes are back, a majority may be
    seconds behind (2.5 s seen after a frozen primary), and with it every settlement.
    """

    def __init__(self, history: Sequence[AnyEvent]) -> None:
        outs = server_outs(history)
        self._windows = [_with_outs(window, outs) for window in windows(history)]

    def find(self, claimed_at: float, second_at: float, spent: Set[int]) -> int | None:
        """Return the number of a fault that explains it and is not `spent`. Of several the one that is over first:
        those that last longer may explain later repetitions, and it cannot."""
        there = [
            number
            for number, window in enumerate(self._windows)
            if number not in spent and window.from_s <= second_at and claimed_at <= window.to_s
        ]
        return min(there, key=lambda number: self._windows[number].to_s, default=None)


def _with_outs(window: Window, outs: Iterable[Silence]) -> Window:
    ends = [one.to_s for one in outs if one.from_s <= window.to_s and window.from_s <= one.to_s]
    return Window(window.fault, window.from_s, max([window.to_s, *ends]))
