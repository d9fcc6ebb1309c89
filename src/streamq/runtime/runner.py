"""The runner: calls one handler for one claim and says what came of it. It settles nothing."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

import trio

from streamq.core.codec import require_size
from streamq.core.handling import Handling
from streamq.core.outcome import TOTAL_OVER, Done, Outcome, Raised, called_off, raised
from streamq.core.retry import is_retried
from streamq.core.telling import outcome_of
from streamq.errors import PayloadInvalid, PayloadTooLarge, PayloadUndecodable, TaskTimeout
from streamq.runtime import clock
from streamq.runtime.current import RUNNING
from streamq.runtime.held import Held
from streamq.runtime.journal import Journal

NOTHING: Final = Done()

STOPS: Final = (trio.Cancelled, KeyboardInterrupt, GeneratorExit)


class Runner:
    """Runs handlers: async ones in the caller's task, others in threads."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.in_threads: Counter[str] = Counter()
        """How many handlers of each name run in threads that are waited for."""

    async def run(self, held: Held, handling: Handling) -> Outcome | None:
        """Run the handler; None when the lease was lost meanwhile.

        Cancellation: of the caller passes through an async handler; a handler in a thread is waited for, since a
        thread cannot be cancelled and its task must not start elsewhere while it runs.
        """
        timeout_s = math.inf if handling.timeout_s is None else handling.timeout_s
        left_s = math.inf if held.left_s is None else held.left_s
        if left_s <= 0:
            return TOTAL_OVER  # it waited too long for this attempt
        outcome: Outcome | None = None
        until = clock.now() + min(timeout_s, left_s)
        scope = held.scope = trio.CancelScope(deadline=until, shield=not handling.is_async)
        with scope:
            outcome = await self.run_unlimited(held, handling)
        if held.lost:
            return None
        if held.cancelled:
            if outcome is None and not handling.is_async:
                self._journal.write("thread left behind", task=held.claim.id, name=handling.name)
            return called_off(outcome)
        if outcome is not None and not (scope.cancel_called and isinstance(outcome, Raised)):
            return outcome
        if not handling.is_async:
            self._journal.write("thread left behind", task=held.claim.id, name=handling.name)
        if left_s <= timeout_s:
            return TOTAL_OVER
        why = TaskTimeout(f"the attempt ran longer than timeout_s={timeout_s:g} and was cancelled")
        return raised("TaskTimeout", str(why), final=not is_retried(handling.retry, why))

    async def run_unlimited(self, held: Held, handling: Handling) -> Outcome:
        """Run the handler inside the scope of the caller, which knows why it may be cancelled."""
        try:
            args, kwargs = handling.schema.load(held.claim.payload)
        except PayloadUndecodable as error:
            return raised("PayloadUndecodable", str(error), final=True)
        held.started = True
        token = RUNNING.set(held)
        try:
            if handling.is_async:
                result = await handling.function(*args, **kwargs)
            else:
                result = await self._in_thread(handling, args, kwargs)
        except BaseException as error:  # noqa: BLE001 - the one place: whatever the user's code raises
            stop = stopping_part(error)
            if stop is not None:
                raise stop from None
            return outcome_of(error, handling.retry)
        finally:
            RUNNING.reset(token)
        return _returned(result, handling)

    async def _in_thread(self, handling: Handling, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        def call() -> object:
            return handling.function(*args, **kwargs)

        # Abandoned only by our own scope: at a timeout, or when the lease is lost. The slots bound how many run at
        # once; a shared limiter would let threads that were left behind starve the tasks after them.
        self.in_threads[handling.name] += 1
        try:
            return await trio.to_thread.run_sync(call, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True)
        finally:
            self.in_threads[handling.name] -= 1
            self.in_threads += Counter()  # forget names at zero


def encoded(result: object, handling: Handling) -> Done:
    """Read what a handler returns. Raises `PayloadInvalid`, `PayloadTooLarge`."""
    if result is None and handling.schema.returns_none:
        return NOTHING
    stored = handling.schema.dump_result(result)
    if stored is not None:
        require_size(stored, handling.limit_bytes, f"the result of {handling.name}")
    return Done(stored)


def _returned(result: object, handling: Handling) -> Done | Raised:
    try:
        return encoded(result, handling)
    except (PayloadInvalid, PayloadTooLarge) as error:
        # Doing the work again would give the same result.
        return raised(type(error).__name__, str(error), final=True)


def stopping_part(error: BaseException) -> BaseException | None:
    """Return what of an exception ends more than the handler, None when nothing does.

    Any other fails the attempt, also those past `Exception` (asyncio's CancelledError, say): a task that could take
    its worker down would do so again at the next one. What a handler raises besides its cancellation, out of a nursery
    of its own, has nobody left to hear it.
    """
    if isinstance(error, BaseExceptionGroup):
        return error.split(STOPS)[0]
    return error if isinstance(error, STOPS) else None
