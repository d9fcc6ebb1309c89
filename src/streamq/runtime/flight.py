"""A claim that was sent behind another one, while that was under way.

    claim ──find──┬──update── answer → hand over, run …
                  └ claim ──find──┬──update── answer → …
                                  └ claim …

A process that runs what it claims sooner than the server claims for it would be idle, and the server too, from an
answer to the first statement of the next claim: a fifth of a drain's time (docs/measurements.md). So the next claim
waits in its thread for the one before it (`Bridge.in_turn`), and goes out as soon as that has looked and knows what it
is to take. It looks at the head of the queue as any claim does, so that what was stored meanwhile comes in its place,
but leaves out what the one before it is about to take: nothing is asked for twice. Answers are taken in one after the
other. There are two at most.
"""

from __future__ import annotations

import msgspec
import trio

from streamq.bridge import Bridge, Turn, Turns
from streamq.core.claim import Ask
from streamq.core.demand import ClaimHead
from streamq.errors import StoreError
from streamq.runtime import clock
from streamq.store.contract import Claimed, Store

NOTHING = Claimed((), more=False)


class Flight:
    """`claimed` or `error` is there once it has landed; neither when it was cancelled before it left."""

    def __init__(self, action: ClaimHead, ask: Ask, store: Store) -> None:
        self.action = action
        self.ask = ask
        self.claimed: Claimed | None = None
        self.error: StoreError | None = None
        self.called_off = False  # no use for it any more: it is not sent, if it has not been
        self.left_at = clock.thread_now()  # when it was sent, by that clock
        self._store = store
        self._landed = trio.Event()

    async def fly(self, bridge: Bridge, turns: Turns) -> None:
        """Claim. Cancellation: once begun, the answer is waited for."""
        try:
            self.claimed = await bridge.in_turn(turns, self.claim)
        except StoreError as error:
            self.error = error
        finally:
            self._landed.set()

    def claim(self, turn: Turn) -> Claimed:
        """Claim, unless it was called off. In the bridge's thread."""
        if self.called_off:
            return NOTHING
        self.left_at = clock.thread_now()
        ask = msgspec.structs.replace(self.ask, beside=tuple(turn.beside)) if turn.beside else self.ask
        return self._store.claim(ask, turn.pass_on)

    async def wait_landed(self) -> None:
        """Wait for the answer. Cancellation: not heeded, what it obtained must be taken in."""
        with trio.CancelScope(shield=True):
            await self._landed.wait()
