"""The feed of the store in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from streamq.core.wake import Wake
from streamq.core.wakes import Interest


class MemoryFeed:
    """What a stream would tell, in a deque. `on_wake` is called at each event, in the writer's thread."""

    def __init__(self, interest: Interest, forget: Callable[[MemoryFeed], None]) -> None:
        self.interest = interest
        self.wakes: deque[Wake] = deque()
        self.on_wake: Callable[[], None] | None = None
        self._forget = forget

    def read(self) -> Wake | None:
        """Return the next wake; None when there is none: it does not wait."""
        return self.wakes.popleft() if self.wakes else None

    def tell(self, wake: Wake) -> None:
        """Add a wake and poke the reader."""
        self.wakes.append(wake)
        if self.on_wake is not None:
            self.on_wake()

    def close(self) -> None:
        """Hear no more."""
        self._forget(self)
