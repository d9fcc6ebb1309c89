"""Free slots offered to the feed's thread: when nothing is waiting anywhere, the thread that reads a wake claims the
task itself, before it tells trio. That saves two hand-overs between threads on the way from put to handler.

    trio: idle, 2 takers wait ──give(2)──→ permits [·,·]
    feed's thread: wake ──take──→ claims by id ──→ delivered to trio ──back──→ a taker

A permit is a slot that somebody waits in. Taking one is atomic, so a slot is promised once: what trio wants to fill
itself it withdraws first, and what was taken meanwhile counts as filled until it is delivered.
"""

from __future__ import annotations

from collections import deque


class Offer:
    """The permits of one intake. `take` may be called from another thread; everything else is trio's."""

    def __init__(self) -> None:
        self._permits: deque[None] = deque()
        self._given = 0  # permits in the deque or taken and not yet back

    @property
    def out(self) -> int:
        """How many permits were taken and are not back: claims in flight in the feed's thread."""
        return self._given - len(self._permits)

    @property
    def left(self) -> int:
        """How many slots are on offer. Any thread."""
        return len(self._permits)

    def give(self, free: int) -> None:
        """Offer `free` slots in all, those that are out included."""
        while self._given < free:
            self._given += 1
            self._permits.append(None)

    def withdraw(self) -> None:
        """Offer no more; what is out stays out."""
        while self.take():
            self._given -= 1

    def take(self) -> bool:
        """Take one slot, if one is offered. Any thread."""
        try:
            self._permits.pop()
        except IndexError:
            return False
        return True

    def back(self, count: int = 1) -> None:
        """So many permits that were taken have been delivered, with a task or without."""
        self._given -= count
