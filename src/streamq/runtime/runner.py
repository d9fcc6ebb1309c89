"""The runner: calls one handler for one claim and says what came of it. It settles nothing."""

from __future__ import annotations

import math

import trio

from streamq.core.codec import require_size
from streamq.core.handling import Handling
from streamq.core.outcome import Done, Outcome, Raised, raised
from streamq.core.telling import outcome_of
from streamq.errors import PayloadInvalid, PayloadTooLarge, PayloadUndecodable
from streamq.runtime import clock
from streamq.runtime.current import RUNNING
from streamq.runtime.held import Held
from streamq.runtime.journal import Journal


class Runner:
    """Runs handlers: async ones in the caller's task, others in threads with a limiter of their own."""

    def __init__(self, journal: Journal, threads: int) -> None:
        self._journal = journal
        self._threads = trio.CapacityLimiter(threads)

    async def run(self, held: Held, handling: Handling) -> Outcome | None:
        """Run the handler; None when the lease was lost meanwhile.

        Cancellation: of the caller passes through an async handler; a handler in a thread is waited for, since a
        thread cannot be cancelled and its task must not start elsewhere while it runs.
        """
        timeout_s = math.inf if handling.timeout_s is None else handling.timeout_s
        outcome: Outcome | None = None
        scope = held.scope = trio.CancelScope(deadline=clock.now() + timeout_s, shield=not handling.is_async)
        try:
            with scope:
                outcome = await self.run_unlimited(held, handling)
        except BaseException as error:
            # Besides its cancellation the handler raised something of its own.
            if not scope.cancel_called or ends_more_than_the_handler(error):
                raise
        if held.lost:
            return None
        if outcome is not None and not (scope.cancel_called and isinstance(outcome, Raised)):
            return outcome
        if not handling.is_async:
            self._journal.write("thread left behind", task=held.claim.id, name=handling.name)
        return raised("TaskTimeout", f"the attempt ran longer than timeout_s={timeout_s:g} and was cancelled")

    async def run_unlimited(self, held: Held, handling: Handling) -> Outcome:
        """Run the handler inside the scope of the caller, which knows why it may be cancelled."""
        try:
            args, kwargs = handling.schema.load(held.claim.payload)
        except PayloadUndecodable as error:
            return raised("PayloadUndecodable", str(error), final=True)
        held.started = True
        token = RUNNING.set(held.claim)
        try:
            if handling.is_async:
                result = await handling.function(*args, **kwargs)
            else:
                result = await self._in_thread(handling, args, kwargs)
        except BaseException as error:  # the one place: whatever the user's code raises
            if ends_more_than_the_handler(error):
                raise
            return outcome_of(error)
        finally:
            RUNNING.reset(token)
        return _returned(result, handling)

    async def _in_thread(self, handling: Handling, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        def call() -> object:
            return handling.function(*args, **kwargs)

        # Abandoned only by our own scope: at a timeout, or when the lease is lost.
        return await trio.to_thread.run_sync(call, limiter=self._threads, abandon_on_cancel=True)


def _returned(result: object, handling: Handling) -> Done | Raised:
    try:
        stored = handling.schema.dump_result(result)
        if stored is not None:
            require_size(stored, handling.limit_bytes, f"the result of {handling.name}")
    except (PayloadInvalid, PayloadTooLarge) as error:
        # Doing the work again would give the same result.
        return raised(type(error).__name__, str(error), final=True)
    return Done(stored)


def ends_more_than_the_handler(error: BaseException) -> bool:
    """Say whether an exception ends more than the handler. Any other fails its attempt, also those past `Exception`
    (asyncio's CancelledError, say): a task that could take its worker down would do so again at the next one."""
    if isinstance(error, BaseExceptionGroup):
        return any(ends_more_than_the_handler(one) for one in error.exceptions)
    return isinstance(error, trio.Cancelled | KeyboardInterrupt | GeneratorExit)
