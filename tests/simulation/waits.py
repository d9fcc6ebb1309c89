"""How long tasks wait for nothing: in vain is waited while somebody who is well could do what is due.

Kept as time passes: between two events nothing changes, so each such span is weighed once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import Final

from streamq.core.document import DELAYED, READY, RUNNING
from streamq.core.schedule import PREFIX
from tests.simulation.plan import Plan
from tests.simulation.script import Script
from tests.simulation.server import Server
from tests.simulation.starts import is_held_up

CALM_S: Final = 6.0
"""So long after a fault nothing is weighed: what has met an error pauses, up to five seconds and jittered, before it
tries again."""

LATE_S: Final = 1.0
"""What may be waited in vain: others stand back from a task for 0.4 s at most, a wake and a claim take a few lags."""


class Waits:
    """Of one run. `late` are tasks, by id, and schedules, by handler, that waited too long: what they were, and for
    how long."""

    def __init__(self, plan: Plan, server: Server, scripts: Mapping[str, Script]) -> None:
        self._server = server
        self._recurs = plan.recurs
        self._scripts = scripts
        self._queues = {host.name: host.queues for host in plan.hosts}
        self._calm_at = CALM_S
        self._waited: dict[Hashable, float] = defaultdict(float)
        slack_s = LATE_S + 20 * max((host.lag_s for host in plan.hosts), default=0.0)
        if plan.safety_scan_s is not None:
            slack_s += plan.safety_scan_s + plan.lease_s  # a wake may be lost
        self._slack_s = slack_s
        self.late: dict[Hashable, tuple[str, float]] = {}
        self.calm_s = 0.0

    def strike(self) -> None:
        """A fault is here, or over."""
        self._calm_at = self._server.world.now + CALM_S

    def pass_by(self, seconds: float) -> None:
        """Weigh a span in which nothing happens."""
        world = self._server.world
        span_s = min(seconds, world.now + seconds - self._calm_at)
        if span_s <= 0:
            return
        self.calm_s += span_s
        self._weigh_slots(span_s)
        well = {name: script for name, script in self._scripts.items() if script.has_room}
        if not well:
            return
        open_to = {queue for name in well for queue in self._queues[name]} - set(self._server.paused(None))
        now = world.now
        for id, document in self._server.documents.items():
            status = document["status"]
            if status == READY or is_held_up(document):
                may_start = self._server.starts.may_start(document, now)
                waits = document["queue"] in open_to and may_start
                if not may_start:
                    # Another was begun instead, in order: what comes after that is a wait of its own.
                    self._waited.pop((id, status, document["attempt"]), None)
            elif status == DELAYED:
                waits = self._server.seconds(document["due_at"]) <= now
            elif status == RUNNING:
                waits = self._server.seconds(document["lease_until"]) <= now
            else:
                continue
            if waits:
                self._wait(id, status, document["attempt"], span_s)

    def _weigh_slots(self, span_s: float) -> None:
        """Weigh slots that have come, while somebody is well who may fire them: no free slot of a host is needed."""
        for recur in self._recurs:
            next_at = self._server.meta.get(PREFIX + recur.name, {}).get("next_at")
            if next_at is None or self._server.seconds(next_at) > self._server.world.now:
                continue
            if any(script.fires(recur.queue) for script in self._scripts.values()):
                self._wait(recur.name, "slot", next_at, span_s)

    def _wait(self, id: Hashable, what: str, which: Hashable, span_s: float) -> None:
        key = (id, what, which)
        self._waited[key] += span_s
        if self._waited[key] > self._slack_s:
            self.late[id] = (what, self._waited[key])
