"""A transaction in which a task succeeds, for programs without trio."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Protocol

import msgspec

from streamq.core.claim import Claim
from streamq.core.settlement import Settlement, Verdict
from streamq.core.signals import TransactionAborted
from streamq.errors import LeaseLost
from streamq.runtime.transaction import LIVES, MOST_LEASE_S, given_up
from streamq.store.contract import Store


class InHand(Protocol):
    """What a transaction needs of its task."""

    def require_held(self) -> Claim:
        """Return the claim, if the task was not settled here. Raises `LeaseLost`, `UsageError`."""

    def success(self, result: Any) -> Settlement:
        """Build the settlement of a success with `result`."""

    def ended(self, verdict: Verdict) -> None:
        """Note what became of the task's settlement. Raises `LeaseLost`."""


class BlockingTransaction:
    """`with task.transaction() as session:`; see `BlockingTask.transaction`. `result` is stored as its result."""

    def __init__(self, task: InHand, store: Store) -> None:
        self.result: Any = None
        self._task = task
        self._store = store
        self._session: Any = None
        self._life_s = 0.0
        self._began_at = 0.0

    def __enter__(self) -> Any:
        """Extend the lease past the transaction's longest life, and begin. Raises `LeaseLost`, `StoreError`."""
        self._life_s = self._store.transaction_s()
        claim = self._task.require_held()
        longest_s = min(MOST_LEASE_S, max(claim.lease_s, LIVES * self._life_s))
        if self._store.extend([msgspec.structs.replace(claim, lease_s=longest_s)]):
            raise LeaseLost(claim.id, "begin a transaction")
        self._began_at = time.monotonic()
        self._session = self._store.begin()
        return self._session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Settle and commit, or abort when the block raised."""
        session, self._session = self._session, None
        if error is not None:
            reason = self._store.abort(session, error)
            if reason is not None:
                raise given_up(reason, time.monotonic() - self._began_at, self._life_s) from error
            return
        try:
            settlement = self._task.success(self.result)
        except BaseException:
            self._store.abort(session, None)
            raise
        try:
            verdict = self._store.commit(session, settlement)
        except TransactionAborted as aborted:
            open_s = time.monotonic() - self._began_at
            raise given_up(aborted.reason, open_s, self._life_s) from aborted.__cause__
        self._task.ended(verdict)
