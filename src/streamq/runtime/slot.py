"""A slot: takes a claim, runs its handler, hands in the outcome, and again.

Entering and leaving a cancel scope of trio costs about as much as all the rest of a task that does nothing (20 of
53 µs, measured on a stubbed store). A handler without a time limit is only ever cancelled when its lease is lost or
somebody wants its task cancelled, which is rare; so such handlers run one after the other inside one scope of the slot,
made anew after it was cancelled.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping

import trio

from streamq.core.handling import Handling
from streamq.core.outcome import Done, Outcome, called_off
from streamq.core.settlement import Settlement, settlement_of, success_of
from streamq.runtime import clock
from streamq.runtime.held import Held
from streamq.runtime.runner import Runner
from streamq.runtime.settler import Settler
from streamq.runtime.takers import Takers


class Slot:
    """One slot: of one queue, or of a pool that several share."""

    def __init__(self, takers: Takers, handlers: Mapping[str, Handling], runner: Runner, settler: Settler) -> None:
        self._takers = takers
        self._handlers = handlers
        self._runner = runner
        self._settler = settler

    async def run(self) -> None:
        """Work until the takers are closed, or cancelled."""
        with contextlib.suppress(trio.EndOfChannel):
            while True:
                with trio.CancelScope() as scope:
                    await self._serve(scope)

    async def _serve(self, scope: trio.CancelScope) -> None:
        while True:
            held = await self._takers.take()
            if held.is_over:
                continue
            handling = self._handlers[held.claim.task or ""]
            if (held.claim.max_attempts == 1 or not handling.is_async) and _is_cancelled():
                # Since it was woken. Begun, it would use up an only attempt, or a thread that is waited for.
                self._settler.release(held)
                continue  # to the next checkpoint
            if handling.is_async and handling.timeout_s is None and held.claim.total_s is None:
                outcome = await self._run_inside(scope, held, handling)
            else:
                outcome = await self._runner.run(held, handling)
            if outcome is not None:
                self._settler.push(held, _settlement(outcome, held, handling))
            if self._settler.is_full:
                await self._settler.has_room()

    async def _run_inside(self, scope: trio.CancelScope, held: Held, handling: Handling) -> Outcome | None:
        """Run with the slot's own scope as the handler's: whoever finds the lease lost cancels it."""
        held.scope = scope
        try:
            outcome = await self._runner.run_unlimited(held, handling)
        except BaseException:
            if held.cancelled:
                self._settler.push(held, settlement_of(called_off(None), held.claim, handling.retry, 0.0))
            raise
        finally:
            held.scope = None  # the scope's next task is not this claim's
        if held.cancelled:
            outcome = called_off(outcome)
        return None if held.lost else outcome


def _settlement(outcome: Outcome, held: Held, handling: Handling) -> Settlement:
    if isinstance(outcome, Done):
        return success_of(outcome, held.claim)
    return settlement_of(outcome, held.claim, handling.retry, clock.chance(), held.left_s)


def _is_cancelled() -> bool:
    """Say whether the next checkpoint will raise. It costs 1.7 µs, hence not for every task."""
    return trio.current_effective_deadline() == -math.inf
