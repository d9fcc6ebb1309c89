"""A claimed task in the hands of a program without trio."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from streamq.blocking_transaction import BlockingTransaction
from streamq.core.claim import Claim
from streamq.core.codec import from_stored
from streamq.core.handling import BareSettings
from streamq.core.options import require_delay_s, require_lease_s, require_reason
from streamq.core.outcome import CalledOff, Done, Outcome, Snoozed, Stopped, reason_of
from streamq.core.report import Reported, report_of
from streamq.core.settlement import Settlement, Verdict, settlement_of
from streamq.core.signals import TransactionAborted
from streamq.core.telling import done_with, failed_by, outcome_of
from streamq.errors import LeaseLost, StoreError, UsageError
from streamq.runtime import clock
from streamq.runtime.current import TaskInfo, info_of
from streamq.runtime.settler import require_known, require_settled
from streamq.runtime.transaction import RERUN_S
from streamq.store.contract import Store

T = TypeVar("T")


class BlockingTask:
    """A claimed task. Settle it once: by a method, or by leaving `with task:`."""

    def __init__(self, claim: Claim, store: Store, settings: BareSettings) -> None:
        self._claim = claim
        self._store = store
        self._settings = settings
        self._retry = settings.retry_of(claim)
        self._verdict: Verdict | None = None
        self._since = time.monotonic()
        self.info: TaskInfo = info_of(claim)
        self.payload: Any = from_stored(claim.payload)

    def __repr__(self) -> str:
        return f"<BlockingTask {self._claim.id} of {self._claim.queue!r}, attempt {self._claim.attempt}>"

    def succeed(self, result: Any = None) -> None:
        """Settle as succeeded. Raises `LeaseLost`: the task is not yours any more, nothing was changed."""
        self._settle(done_with(result, self._settings.limit_bytes))

    def fail(self, error: str | BaseException, *, retry: bool = True) -> None:
        """Settle as failed: tried again after a backoff while attempts are left, unless `retry` is False."""
        self._settle(failed_by(error, self._retry, retry=retry))

    def release(self, delay_s: float = 0.0) -> None:
        """Give the task back, to start no sooner than `delay_s` seconds from now; the attempt is not counted."""
        self._settle(Snoozed(require_delay_s(delay_s)))

    def snooze(self, delay_s: float) -> None:
        """Give the task back for `delay_s` seconds; the attempt is not counted."""
        self._settle(Snoozed(require_delay_s(delay_s)))

    def cancel(self, reason: str = "") -> None:
        """End the task in `cancelled`, with `reason` kept among its errors. Raises `LeaseLost`."""
        self._settle(CalledOff(reason_of(require_reason(reason))))

    def progress(self, value: float, note: str = "") -> None:
        """Store how far the task is (any number, as you count; `note` is for people) and renew the lease.

        Raises `OptionInvalid`, `LeaseLost`. Trips: 1; each call is a write.
        """
        if self._store.report([Reported(self._claim, report_of(value, note))]):
            raise LeaseLost(self._claim.id, "progress")

    def cancel_asked(self) -> bool:
        """Ask whether somebody wants it cancelled: then `cancel` it. False also when it is not held any more: what
        you do next tells. Trips: 1."""
        return bool(self._store.asked([self._claim]))

    def extend(self, lease_s: float | None = None) -> bool:
        """Extend the lease to `lease_s` seconds from now (as long as before by default).

        Return True when somebody wants the task cancelled: then `cancel` it. Raises `LeaseLost`. Trips: 1.
        """
        if lease_s is not None:
            self._claim = msgspec.structs.replace(self._claim, lease_s=require_lease_s(lease_s))
        renewed = self._store.renew(self._claim)
        if renewed == "lost":
            raise LeaseLost(self._claim.id, "extend")
        return renewed == "asked"

    def transaction(self) -> BlockingTransaction:
        """Make a transaction in which the task succeeds:

            with task.transaction() as session:
                orders.update_one(..., session=session)

        What is written with `session` (of `app.client`) and the task's success are committed together, or neither.
        Leaving the block commits; an exception aborts both, and the task is still held. Set `result` of what this
        returns to store a result. Errors as of `Task.transaction`. Trips: 1 to begin, 2 to commit.
        """
        return BlockingTransaction(self, self._store)

    def run_in_transaction(self, function: Callable[[Any], T]) -> T:
        """Run `function(session)` in a transaction in which the task succeeds, and commit; again as long as it is given
        up for what passes, up to two minutes. What it returns is stored as the task's result, and returned."""
        until = time.monotonic() + RERUN_S
        while True:
            transaction = self.transaction()
            try:
                with transaction as session:
                    result = transaction.result = function(session)
            except TransactionAborted:
                if time.monotonic() > until:
                    raise
                time.sleep(clock.jittered(0.05))
            else:
                return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Settle: success at the end of the block; failure by an `Exception`, which is kept on the task and raised no
        further; release when the program is being stopped. Raises `LeaseLost`."""
        if self._verdict is not None:
            return False
        if error is None:
            self.succeed()
        elif isinstance(error, Exception):
            self._settle(outcome_of(error, self._retry))
        else:
            self._settle(Stopped(started=True))
        return isinstance(error, Exception)

    def _settle(self, outcome: Outcome) -> Verdict:
        claim = self.require_held()
        left_s = None if claim.total_s is None else self._since + claim.total_s - time.monotonic()
        settlement = settlement_of(outcome, claim, self._retry, clock.chance(), left_s)
        (verdict,) = self._store.settle([settlement])
        self.ended(verdict)
        return verdict

    @property
    def lease_s(self) -> float:
        """How long its lease lasts, by its claim or the last extension."""
        return self._claim.lease_s

    @property
    def is_settled(self) -> bool:
        """Say whether it was settled here."""
        return self._verdict is not None

    def require_held(self) -> Claim:
        """Return the claim, if the task was not settled here. Raises `LeaseLost`, `UsageError`."""
        if self._verdict == "lost":
            raise LeaseLost(self._claim.id)
        if self._verdict is not None:
            raise UsageError(f"task {self._claim.id} was settled here already: a task is settled once")
        return self._claim

    def success(self, result: Any) -> Settlement:
        """Build the settlement of a success with `result`. Raises `PayloadInvalid`, `PayloadTooLarge`."""
        done = done_with(result, self._settings.limit_bytes)
        return settlement_of(done, self.require_held(), self._retry, 0.0)

    def ended(self, verdict: Verdict) -> None:
        """Note what became of the task's settlement. Raises `LeaseLost`."""
        self._verdict = verdict
        require_settled(self._claim.id, verdict)

    def popped(self) -> bool:
        """Settle as succeeded, before anything was done; False when somebody else has it by now.

        Raises `OutcomeUnknown` when it is not known whether that is stored.
        """
        try:
            verdict = self._settle(Done())
        except LeaseLost:
            return False
        require_known(self._claim.id, verdict)
        return True

    def give_back(self) -> None:
        """Release the task if it was not settled: for whoever leaves it. Uncounted; without it its lease would end."""
        if self._verdict is None:
            with contextlib.suppress(LeaseLost, StoreError):
                self._settle(Stopped(started=False))
