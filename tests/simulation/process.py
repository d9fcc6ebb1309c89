"""A process: a loop of its own, its wire to the server, and what can be done to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import trio

from tests.simulation.loop import Loop
from tests.simulation.plan import Call
from tests.simulation.server import Server
from tests.simulation.wire import Wire
from tests.simulation.world import Action


class Process:
    """Begins by `begin`. While it is frozen, what comes for it waits."""

    def __init__(
        self,
        server: Server,
        name: str,
        seed: str,
        *,
        offset_s: float = 0.0,
        skew_s: float = 0.0,
        lag_s: float = 0.005,
        calls: tuple[Call, ...] = (),
    ) -> None:
        self.name = name
        self.dice = Random(seed)
        self.wire = Wire(server, calls, Random(seed + " wire"), skew_s)
        self.struck: Action = lambda: None
        self.world = server.world
        self._server = server
        self.loop: Loop
        self.frozen = False
        self.stalled_until = 0.0  # what it sends or is sent is held on the way until then
        self._offset_s = offset_s
        self._lag_s = lag_s
        self._waiting: list[Action] = []
        self._scope = trio.CancelScope()

    def begin(self, main: Callable[[], Awaitable[object]]) -> None:
        """Let it run `main`."""

        async def run() -> None:
            with self._scope:
                await main()

        self.loop = Loop(self.world, self._offset_s, self.dice, run)
        self.world.actors.append(self)

    # --- as an actor of the world --------------------------------------------------------------------------------

    @property
    def due_at(self) -> float:
        """See `Actor`."""
        return float("inf") if self.frozen else self.loop.due_at

    @property
    def over(self) -> bool:
        """See `Actor`."""
        return self.loop.over

    def step(self) -> None:
        """See `Actor`."""
        self.loop.step()

    @property
    def is_alive(self) -> bool:
        """Say whether anybody hears of what it does."""
        return self.wire.cut_at > self.world.now

    # --- what comes for it ---------------------------------------------------------------------------------------

    def lag(self) -> float:
        """Draw how long a message takes that is sent now."""
        return max(0.0, self.stalled_until - self.world.now) + self.way()

    def way(self) -> float:
        """Draw how long a message takes that nothing holds up: mostly short, seldom up to four times as long."""
        return self._lag_s * min(self.dice.expovariate(1.0), 4.0)

    def tell(self, action: Action) -> None:
        """Let something happen in it, now, or when it goes on."""
        if self.frozen:
            self._waiting.append(action)
        elif not self.loop.over:
            self.loop.act(action)

    def send(self, arrive: Action, within_s: float) -> None:
        """Let a message come to the server. No run ends while one is on its way, though its sender may be dead."""
        self._server.under_way += 1

        def come() -> None:
            self._server.under_way -= 1
            arrive()

        self.world.after(within_s, come)

    def at_server(
        self, call: Action, sent_at: float | None = None, *, may_wait: bool = False
    ) -> Callable[[Action], None] | None:
        """Make calls that are at the server by now. Return what lets an action happen when their answers are there;
        None: there were none."""
        wire = self.wire
        trips, wire.hold_s, wire.notes = wire.trips, 0.0, []
        wire.trips_before, wire.may_wait = trips, may_wait
        wire.sent_at = self.world.now if sent_at is None else sent_at
        self.loop.act(call)
        if wire.trips == trips:
            return None
        hold_s, notes = wire.hold_s, wire.notes

        def when_heard(action: Action) -> None:
            def heard() -> None:
                if self.is_alive:
                    for note in notes:
                        note(self.world.now)
                action()

            self.world.after(hold_s + self.lag(), lambda: self.tell(heard))

        return when_heard

    # --- what is done to it --------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop it where it is."""
        self.frozen = True

    def thaw(self) -> None:
        """Let it go on: what it has waited for, and all its timers, come at once."""
        self.frozen = False
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            self.tell(action)

    def kill(self) -> None:
        """End it between two instructions: nothing that it does from here on is heard by anybody."""
        self.wire.cut_at = self.world.now
        self.thaw()
        self.stop()

    def stop(self) -> None:
        """Cancel what it does."""
        self.tell(lambda: self._scope.cancel())
