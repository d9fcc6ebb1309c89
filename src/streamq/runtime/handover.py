"""What the thread that reads the stream claims for trio, on its way there.

A loop that stands still (a handler that gives nobody a turn) begins nothing: what was claimed for it would lie there
until its lease ends, and lose an attempt.
"""

from __future__ import annotations

from typing import Final

from streamq.runtime import clock

STUCK_S: Final = 0.05
"""What has been claimed is taken in within a millisecond or two. A loop that takes longer than this is told of tasks
instead, as a busy one is."""


class Handover:
    """One per watcher. `sent` and `is_stuck` may be called from any thread; `taken` is trio's."""

    def __init__(self) -> None:
        self._since: float | None = None  # the oldest that trio has not taken in

    @property
    def is_stuck(self) -> bool:
        """Say whether trio has not come for what was claimed: claim no more."""
        since = self._since
        return since is not None and clock.thread_now() - since > STUCK_S

    def sent(self) -> None:
        """Note that something was claimed. Before it is delivered."""
        if self._since is None:
            self._since = clock.thread_now()

    def taken(self) -> None:
        """Note that trio has come. Of two on their way the second counts as taken too: the loop goes round."""
        self._since = None
