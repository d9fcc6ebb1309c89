"""The thread that reads a feed: which wakes it answers itself, and which it leaves to trio."""

from __future__ import annotations

import trio
from bson import ObjectId

from streamq.bridge import SWIFT_IN_A_ROW, _Pump
from streamq.core.wake import Wake


class Script:
    """A feed that tells `wakes` and then a bell."""

    def __init__(self, wakes: int) -> None:
        self.wakes = [Wake("ready", ObjectId(), "q", is_new=True) for _ in range(wakes)]
        self._left = [*self.wakes, Wake("bell")]

    def read(self) -> Wake | None:
        return self._left.pop(0)

    def close(self) -> None: ...


async def test_pump_answers_a_few_wakes_while_trio_is_held_up_and_leaves_a_burst_to_one_claim() -> None:
    """Run in trio's own thread, the pump finds trio held up from its first wake to its last."""
    feed, delivered = Script(SWIFT_IN_A_ROW + 5), list[object]()
    _Pump(feed, lambda wake: (wake.id,), delivered.extend).run()
    await _drained(delivered)
    early = [(wake.id,) for wake in feed.wakes[:SWIFT_IN_A_ROW]]
    assert delivered == [*early, *feed.wakes[SWIFT_IN_A_ROW:]]


async def test_pump_claims_nothing_ahead_of_a_wake_that_trio_has_not_seen() -> None:
    """It came first, and order is of claiming."""
    feed, delivered = Script(3), list[object]()
    refused = feed.wakes[0]
    _Pump(feed, lambda wake: None if wake is refused else (wake.id,), delivered.extend).run()
    await _drained(delivered)
    assert delivered == feed.wakes


async def _drained(delivered: list[object]) -> None:
    with trio.fail_after(5):
        while not delivered:
            await trio.lowlevel.checkpoint()
