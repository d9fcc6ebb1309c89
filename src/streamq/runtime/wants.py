"""What an intake is asked to claim."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from streamq.core import demand
from streamq.core.limits import Limits


class Wants(msgspec.Struct, frozen=True):
    """What an intake claims. `only` are the handlers' names it knows (None: any task), `leases` those of handlers that
    have a lease of their own; `most_spare` bounds what may wait in the process beyond what its takers can take at once;
    `spare` fixes that number instead of measuring. Of a queue with `limits` nothing waits here, and wakes only make it
    look: the claim from the head decides what starts. `slots` is for the workers list; those that several intakes share
    are named by one of them."""

    queue: str
    worker: str
    lease_s: float
    limits: Limits | None = None
    only: tuple[str, ...] | None = None
    spare: int | None = None
    most_spare: int = demand.MOST_SPARE
    leases: Mapping[str, float] = {}
    slots: int = 1

    @property
    def shortest_lease_s(self) -> float:
        """The shortest lease that a claim may get."""
        return min([self.lease_s, *self.leases.values()])

    @property
    def holds_up(self) -> bool:
        """Say whether tasks may wait for a slot of their key: they are not ready then, and a claim brings them back."""
        return self.limits is not None and self.limits.key_running is not None
