"""A transaction in which a held task succeeds: what its holder writes is committed with the task's success, or not.

    leave the keeper's batch → a lease past the transaction's longest life → begin
        → the caller's writes → fence and commit → settled
                             └→ abort → back into the batch

Why the task leaves the batch: a beat that is sent after the transaction's snapshot makes its last write, the fence,
fail as a write conflict; a beat that meets the fence before the commit waits for it, and with it all other leases.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, TypeVar

import msgspec
import trio

from streamq.core.outcome import Done
from streamq.core.retry import Retry
from streamq.core.settlement import settlement_of
from streamq.core.signals import TransactionAborted
from streamq.errors import LeaseLost, StoreError, UsageError
from streamq.runtime import clock
from streamq.runtime.held import Held
from streamq.runtime.services import Services
from streamq.runtime.settler import with_last_word

T = TypeVar("T")

LIVES: Final = 2.0
"""The lease during a transaction, in lives of one: the server looks for expired transactions about every half life."""

RERUN_S: Final = 120.0
"""How long a function is run again: what `with_transaction` of the driver has."""

MOST_LEASE_S: Final = 86_400.0

ANY: Final = Retry()
"""A success asks no rule."""


class Transaction:
    """`async with task.transaction() as session:`; see `Task.transaction`. In a handler that runs in a thread: `with`.

    `result` is stored as the task's result; set it before the block is left. One transaction, one block.
    """

    def __init__(self, held: Held, services: Services, done: Callable[[Any], Done]) -> None:
        self.result: Any = None
        self._held = held
        self._services = services
        self._done = done
        self._session: Any = None
        self._began_at = 0.0
        self._life_s = 0.0

    async def __aenter__(self) -> Any:
        """Begin. Raises `LeaseLost`, `StoreError`, `UsageError`. Trips: 1, and 1 more in this app's first."""
        held = self._held
        if held.lost:
            raise LeaseLost(held.claim.id, "begin a transaction")
        if held.ending or held.apart:
            raise UsageError(f"task {held.claim.id} was settled here already, or is in a transaction")
        with trio.CancelScope(shield=True):
            await self._services.keeper.set_apart(held)
            try:
                # A report renews the lease, too: by its own, shorter one, in the middle of the transaction.
                await self._services.reporter.wait_written()
                await self._outlive()
                self._session = await self._services.bridge.call(self._services.store.begin)
            except BaseException:
                self._rejoin()
                raise
        self._began_at = clock.now()
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Settle and commit, or abort when the block raised. Cancellation: shielded; the store's deadline bounds it."""
        with trio.CancelScope(shield=True):
            try:
                await self._end(error)
            finally:
                self._session = None
                self._rejoin()

    def __enter__(self) -> Any:
        """As `async with`, for a handler in a thread."""
        return trio.from_thread.run(self.__aenter__)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        trio.from_thread.run(self.__aexit__, kind, error, trace)

    async def _outlive(self) -> None:
        """Extend the lease past the longest life of a transaction, so that nobody can take the task meanwhile."""
        held, services = self._held, self._services
        self._life_s = await services.bridge.call(services.store.transaction_s)
        longest_s = min(MOST_LEASE_S, max(held.claim.lease_s, LIVES * self._life_s))
        claim = msgspec.structs.replace(held.claim, lease_s=longest_s)
        sent_at = clock.now()
        try:
            taken_over = bool(await services.bridge.call(services.store.extend, [claim]))
        finally:
            if held.lost:
                await self._let_go()
        if taken_over:
            services.holdings.lose(held, "taken over")
        if held.lost:
            raise LeaseLost(claim.id, "begin a transaction")
        held.trust_for(sent_at, longest_s)
        services.holdings.changed(held)

    async def _let_go(self) -> None:
        """Have an ordinary lease again. The answer to the long one came when the claim was no longer trusted, and its
        handler had been cancelled: the task would wait for its end, minutes later, with nobody running it."""
        with contextlib.suppress(StoreError):
            await self._services.bridge.call(self._services.store.extend, [self._held.claim])

    async def _end(self, error: BaseException | None) -> None:
        held, services = self._held, self._services
        session = self._session
        if error is None and held.lost:
            error = LeaseLost(held.claim.id)
            await services.bridge.call(services.store.abort, session, None)
            raise error
        if error is None:
            try:
                done = self._done(self.result)
            except BaseException:
                await services.bridge.call(services.store.abort, session, None)
                raise
            await self._commit(session, done)
            return
        reason = await services.bridge.call(services.store.abort, session, error)
        if reason is not None:
            raise given_up(reason, clock.now() - self._began_at, self._life_s) from error

    async def _commit(self, session: Any, done: Done) -> None:
        held, services = self._held, self._services
        settlement = with_last_word(held, settlement_of(done, held.claim, ANY, 0.0))
        try:
            verdict = await services.bridge.call(services.store.commit, session, settlement)
        except TransactionAborted as error:
            open_s = clock.now() - self._began_at
            raise given_up(error.reason, open_s, self._life_s) from error.__cause__
        if verdict == "lost":
            services.holdings.lose(held, "taken over before its transaction was committed")
            raise LeaseLost(held.claim.id)
        held.ending = True  # whatever its holder says of it now comes too late
        services.holdings.drop((held,))
        services.journal.add(settlement.move, 1)

    def _rejoin(self) -> None:
        """Let the keeper extend it again, soon: until then its lease is a long one."""
        held = self._held
        held.apart = False
        if not held.settled:
            held.trust_until(min(held.trusted_until, clock.now() + held.claim.lease_s))
            self._services.reporter.catch_up(held)
            self._services.holdings.changed(held)


def given_up(reason: str, open_s: float, life_s: float) -> TransactionAborted | StoreError:
    """Build what the holder hears of a transaction that was given up `open_s` after its beginning."""
    if open_s < life_s:
        return TransactionAborted(reason)
    # It would be given up so every time: this one counts.
    return StoreError(
        f"the transaction was open for {open_s:.0f} s, the server ends one after {life_s:g} s "
        f"(transactionLifetimeLimitSeconds): {reason}"
    )


async def run_in_transaction(make: Callable[[], Transaction], function: Callable[[Any], T]) -> T:
    """Run `function(session)` in a thread, in a transaction; again while it is given up for a reason that passes."""
    if inspect.iscoroutinefunction(function):
        raise UsageError("run_in_transaction takes a plain function: it runs in a thread, as the driver's calls block")
    until = clock.now() + RERUN_S
    while True:
        transaction = make()
        try:
            async with transaction as session:
                # Never abandoned: its writes go on until they end.
                result = await trio.to_thread.run_sync(function, session, limiter=trio.CapacityLimiter(1))
                transaction.result = result
            return result
        except TransactionAborted:
            if clock.now() > until:
                raise
            await trio.sleep(clock.jittered(0.05))
