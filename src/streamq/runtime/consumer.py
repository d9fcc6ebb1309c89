"""The bare loop: tasks in the hands of the user's own code, nothing between it and the queue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import trio

from streamq.core.claim import Claim
from streamq.core.codec import from_stored
from streamq.core.handling import BareSettings
from streamq.core.options import require_delay_s, require_lease_s, require_reason
from streamq.core.outcome import TOTAL_OVER, CalledOff, Done, Outcome, Snoozed, Stopped, called_off, raised, reason_of
from streamq.core.report import report_of
from streamq.core.settlement import Verdict, settlement_of
from streamq.core.telling import done_with, failed_by, outcome_of
from streamq.errors import LeaseLost, PayloadUndecodable, StoreError, UsageError
from streamq.runtime import clock
from streamq.runtime.current import TaskInfo, info_of
from streamq.runtime.held import Held
from streamq.runtime.intake import Intake
from streamq.runtime.services import Services
from streamq.runtime.settler import require_known
from streamq.runtime.transaction import Transaction, run_in_transaction
from streamq.runtime.wants import Wants

T = TypeVar("T")


class Task:
    """A claimed task. Settle it once: by a method, or by leaving `async with task:`.

    While it is held its lease is extended in the background. When the lease is lost all the same, the body of
    `async with task:` is cancelled and the block raises `LeaseLost`. When somebody wants the task cancelled, the body
    is cancelled too, the block ends without an error, and the task ends in `cancelled` (a body that was through by then
    has succeeded).
    """

    def __init__(self, held: Held, services: Services, settings: BareSettings) -> None:
        self._held = held
        self._services = services
        self._settings = settings
        self._retry = settings.retry_of(held.claim)
        self._scope = held.scope = trio.CancelScope()
        self.info: TaskInfo = info_of(held.claim)
        self.payload: Any = from_stored(held.claim.payload)

    def __repr__(self) -> str:
        return f"<Task {self._claim.id} of {self._claim.queue!r}, attempt {self._claim.attempt}>"

    @property
    def _claim(self) -> Claim:
        return self._held.claim

    @property
    def is_lost(self) -> bool:
        """Say whether the claim was lost: somebody else runs the task now."""
        return self._held.lost

    @property
    def cancel_asked(self) -> bool:
        """Say whether somebody wants the task cancelled, as far as this process has heard. End it by `cancel`."""
        return self._held.cancelled

    async def succeed(self, result: Any = None) -> None:
        """Settle as succeeded. Raises `LeaseLost`: the task is not yours any more, nothing was changed."""
        await self._settle(done_with(result, self._settings.limit_bytes))

    async def fail(self, error: str | BaseException, *, retry: bool = True) -> None:
        """Settle as failed: tried again after a backoff while attempts are left, unless `retry` is False.

        Raises `LeaseLost`: the task is not yours any more, nothing was changed.
        """
        await self._settle(failed_by(error, self._retry, retry=retry))

    async def release(self, delay_s: float = 0.0) -> None:
        """Give the task back, to start no sooner than `delay_s` seconds from now; the attempt is not counted.

        Raises `LeaseLost`.
        """
        await self._settle(Snoozed(require_delay_s(delay_s)))

    async def snooze(self, delay_s: float) -> None:
        """Give the task back for `delay_s` seconds; the attempt is not counted. Raises `LeaseLost`."""
        await self._settle(Snoozed(require_delay_s(delay_s)))

    async def progress(self, value: float, note: str = "") -> None:
        """Say how far the task is; as `streamq.progress` in a handler. Raises `LeaseLost`."""
        await self._services.reporter.report(self._held, report_of(value, note))

    async def cancel(self, reason: str = "") -> None:
        """End the task in `cancelled`, with `reason` kept among its errors. Raises `LeaseLost`."""
        await self._settle(CalledOff(reason_of(require_reason(reason))))

    async def extend(self, lease_s: float | None = None) -> None:
        """Extend the lease now to `lease_s` seconds (the queue's own by default), beside the background's beat.

        Raises `LeaseLost` when it is not held any more, `StoreError` when the server could not be asked.
        """
        claim = self._claim
        if lease_s is not None:
            claim = msgspec.structs.replace(claim, lease_s=require_lease_s(lease_s))
        if self._held.lost:
            raise LeaseLost(claim.id, "extend")
        if self._held.apart:
            raise UsageError(f"task {claim.id} is in a transaction: its lease lasts longer than that can")
        sent_at = clock.now()
        try:
            lost = await self._services.keeper.extend_now([claim])
        except StoreError:
            self._held.mistrust(sent_at, claim)  # it may be shorter now
            self._services.holdings.changed(self._held)
            raise
        if lost:
            self._services.holdings.lose(self._held, "taken over")
            raise LeaseLost(claim.id, "extend")
        self._held.claim = claim
        self._held.trust(sent_at, claim)
        self._services.holdings.changed(self._held)

    def transaction(self) -> Transaction:
        """Make a transaction in which the task succeeds:

            async with task.transaction() as session:
                await trio.to_thread.run_sync(lambda: orders.update_one(..., session=session))

        What is written with `session` (of the app's own client, which blocks: hence the thread) and the task's success
        are committed together, or neither. Leaving the block commits; an exception aborts both, and the task is still
        held. Set `result` of what this returns to store a result.

        Raises `LeaseLost` when the task was taken over, `TransactionAborted` for what passes (nothing is stored
        then; `async with task:` puts the task back, uncounted), `OutcomeUnknown` when the server does not say
        whether it was committed. Trips: 1 to begin, 2 to commit. Cancellation: shielded while it begins and ends.
        """
        return Transaction(self._held, self._services, lambda result: done_with(result, self._settings.limit_bytes))

    async def run_in_transaction(self, function: Callable[[Any], T]) -> T:
        """Run `function(session)` in a thread, in a transaction in which the task succeeds, and commit.

        Again as long as the transaction is given up for a reason that passes, up to two minutes.
        What it returns is stored as the task's result, and returned. Errors as of `transaction`.
        """
        return await run_in_transaction(self.transaction, function)

    async def __aenter__(self) -> Self:
        if self._held.is_over:
            raise LeaseLost(self._claim.id, "start")
        self._held.started = True
        if self._held.left_s is not None:
            self._scope.deadline = clock.now() + self._held.left_s
        self._scope.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Settle: success at the end of the block, failure by an `Exception` (which is kept on the task and logged,
        not raised: one bad task does not stop the loop) and by the end of the task's total time, which cancels the
        block, release when the block was cancelled.

        Cancellation: shielded while it settles. Raises `LeaseLost`.
        """
        rest: BaseException | None = None
        try:
            swallowed = bool(self._scope.__exit__(kind, error, trace))
        except BaseException as left:  # noqa: BLE001 - what a group holds besides our own scope's cancellation
            swallowed, error, rest = False, left, left
        if self._held.lost and (swallowed or not isinstance(error, trio.Cancelled)):
            raise LeaseLost(self._claim.id) from error
        if self._held.lost or self._held.ending:
            if rest is not None:
                raise rest
            return swallowed
        with trio.CancelScope(shield=True):
            if error is None:
                await self.succeed()
                return False
            outcome = self._told(error)
            try:
                await self._settle(called_off(outcome) if self._held.cancelled else outcome)
            except LeaseLost:
                if outcome is not TOTAL_OVER:  # else a scheduler was quicker: at the same instant it writes the same
                    raise
        if rest is not None and not isinstance(rest, Exception):
            raise rest
        return swallowed or isinstance(error, Exception)

    def _told(self, error: BaseException) -> Outcome:
        if isinstance(error, Exception):
            return outcome_of(error, self._retry)
        left_s = self._held.left_s
        return Stopped(started=True) if left_s is None or left_s > 0 else TOTAL_OVER

    async def _settle(self, outcome: Outcome) -> Verdict:
        settlement = settlement_of(outcome, self._claim, self._retry, clock.chance(), self._held.left_s)
        return await self._services.settler.settle(self._held, settlement)


class Tasks:
    """The tasks of a `consume`, one after the other: `async for task in tasks`. Several trio tasks may iterate."""

    def __init__(self, intake: Intake, services: Services, settings: BareSettings) -> None:
        self._intake = intake
        self._services = services
        self._settings = settings

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Task:
        """Wait for a task. Cancellation: safe, nothing is taken."""
        while True:
            held = await self._intake.take()
            task = _task_of(held, self._services, self._settings)
            if task is not None:
                return task


def _task_of(held: Held, services: Services, settings: BareSettings) -> Task | None:
    """Read the task of a claim; None when it is ours no more, and when it does not decode: so it would every time, and
    it fails for good."""
    if held.is_over:
        return None
    try:
        return Task(held, services, settings)
    except PayloadUndecodable as error:
        outcome = raised("PayloadUndecodable", str(error), final=True)
        services.settler.push(held, settlement_of(outcome, held.claim, settings.retry, 0.0))
        return None


async def picked(services: Services, wants: Wants, settings: BareSettings, count: int, wait_s: float) -> list[Task]:
    """Claim up to `count` tasks outside of any loop; wait at most `wait_s` for the first. See `Picker.pick`."""
    until = clock.now() + wait_s
    while True:
        obtained = await services.picker.pick(wants, count, max(0.0, until - clock.now()))
        tasks = [task for held in obtained if (task := _task_of(held, services, settings)) is not None]
        if tasks or not obtained:
            return tasks


async def popped(services: Services, wants: Wants, settings: BareSettings, wait_s: float) -> Task | None:
    """Claim one task and settle it as succeeded; return it once that is stored.

    Raises `OutcomeUnknown` when it is not known whether it is. Cancellation: safe until a task is claimed; then its
    settlement is waited for and it is returned.
    """
    until = clock.now() + wait_s
    while tasks := await picked(services, wants, settings, 1, max(0.0, until - clock.now())):
        (task,) = tasks
        try:
            with trio.CancelScope(shield=True):
                verdict = await task._settle(Done())
        except LeaseLost:
            continue  # somebody else has it by now
        require_known(task.info.id, verdict)
        return task
    return None


@asynccontextmanager
async def consuming(services: Services, wants: Wants, settings: BareSettings) -> AsyncIterator[Tasks]:
    """Claim for the body of the block. On leaving it, what was not settled is released, uncounted."""
    intake = services.intake(wants)
    try:
        await services.watcher.subscribe([intake])
        services.start(intake.run)
        yield Tasks(intake, services, settings)
    finally:
        services.watcher.unsubscribe([intake])
        intake.refuse(UsageError("the block of consume() was left: take its tasks inside of it"))
        intake.takers.close()
        with trio.CancelScope(shield=True):
            await intake.stop()
            await services.settler.give_back(intake)
