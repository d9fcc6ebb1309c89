"""How a program comes up in the middle of an outage: as under a supervisor, which starts it again until it does."""

from __future__ import annotations

import time
from collections.abc import Callable

from streamq import OutcomeUnknown
from streamq.errors import StoreUnavailable

PAUSE_S = 0.2


class Start:
    """Of one program. Once it was ready, whatever ends it is its own fault."""

    def __init__(self) -> None:
        self._was_ready = False

    def ready(self) -> None:
        """Tell the run."""
        self._was_ready = True
        print("ready", flush=True)

    def run(self, program: Callable[[], None]) -> None:
        """Run it, again as long as it finds no server to start with."""
        while True:
            try:
                return program()
            except (StoreUnavailable, OutcomeUnknown):
                if self._was_ready:
                    raise
            time.sleep(PAUSE_S)
