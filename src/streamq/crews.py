"""From what `app.work` was given to the crews of a worker: everything is checked here, before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import trio

from streamq.core.handling import Handling
from streamq.core.limits import Limits
from streamq.core.options import require_count, require_delay_s, require_lease_s, require_queue
from streamq.core.sharing import Shared
from streamq.errors import OptionInvalid, UsageError
from streamq.runtime.worker import Crew, Lane, Stop


class Declared(msgspec.Struct, frozen=True):
    """What an app has to work with: its handlers by name, the limits by queue, and the lease of handlers without one
    of their own."""

    handlers: Mapping[str, Handling]
    limits: Mapping[str, Limits]
    lease_s: float

    def crews(
        self,
        queues: Mapping[str, int] | Iterable[str] | str | Shared | None,
        concurrency: int,
        lease_s: float | Mapping[str, float] | None,
    ) -> list[Crew]:
        """Build the crews. Raises `UsageError` for a queue without a handler, `OptionInvalid`."""
        if isinstance(queues, Shared):
            leases = self._leases(lease_s, queues.queues)
            lanes = tuple(self._lane(queue, leases[queue]) for queue in queues.queues)
            return [Crew(lanes, queues.slots, queues)]
        slots = self._slots(queues, concurrency)
        leases = self._leases(lease_s, slots)
        return [Crew((self._lane(queue, leases[queue]),), count) for queue, count in slots.items()]

    def _slots(self, queues: Mapping[str, int] | Iterable[str] | str | None, concurrency: int) -> dict[str, int]:
        if queues is None:
            queues = self._queues()
        elif isinstance(queues, str):
            queues = [queues]
        slots = dict(queues) if isinstance(queues, Mapping) else dict.fromkeys(queues, concurrency)
        if not slots:
            raise UsageError("there is nothing to work on: declare a handler with @app.task first")
        return {require_queue(queue): require_count(count, f"queues[{queue!r}]") for queue, count in slots.items()}

    def _leases(self, given: float | Mapping[str, float] | None, queues: Iterable[str]) -> dict[str, float]:
        """Say which lease each of `queues` has for handlers without one of their own."""
        leases = dict.fromkeys(queues, self.lease_s)
        if isinstance(given, Mapping):
            for queue, lease_s in given.items():
                if queue not in leases:
                    raise OptionInvalid("lease_s", queue, f"queues that are worked on: {', '.join(leases)}")
                leases[queue] = require_lease_s(lease_s)
        elif given is not None:
            leases = dict.fromkeys(leases, require_lease_s(given))
        return leases

    def _lane(self, queue: str, lease_s: float) -> Lane:
        handlers = {name: handling for name, handling in self.handlers.items() if handling.queue == queue}
        if not handlers:
            known = ", ".join(self._queues()) or "none"
            raise UsageError(f"queue {queue!r} has no handler in this app (queues with handlers: {known})")
        return Lane(queue, handlers, lease_s, self.limits.get(queue))

    def _queues(self) -> list[str]:
        return sorted({handling.queue for handling in self.handlers.values()})


def stop_of(asked: trio.Event | None, grace_s: float | None) -> Stop | None:
    """Say when a worker is to stop in good order; None: it is not told so."""
    if asked is None:
        if grace_s is not None:
            raise OptionInvalid("grace_s", grace_s, "to be given with stop=, the event that the grace begins at")
        return None
    if not isinstance(asked, trio.Event):
        raise OptionInvalid("stop", asked, "a trio.Event")
    return Stop(asked) if grace_s is None else Stop(asked, require_delay_s(grace_s, "grace_s"))
