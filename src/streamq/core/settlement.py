"""The decision how an attempt ends: an outcome becomes a settlement. Pure: chance is an argument."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from bson import ObjectId

from streamq.core.claim import Claim
from streamq.core.options import KEEP_DEFAULT_S
from streamq.core.outcome import TOTAL_OVER, CalledOff, Done, Outcome, Raised, Snoozed, Stopped, raised
from streamq.core.report import Report
from streamq.core.retry import Miscomputed, Retry, backoff_s

DEFAULT_RETRY: Final = Retry()

SettleMove = Literal["succeed", "retry", "retry_later", "fail", "release", "snooze", "cancel"]


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """One fenced write that ends an attempt.

    `keep_s` is for `succeed`: 0 deletes the task instead of keeping it. How long a failed task is kept stands on it.
    One that `frees` slots of a limit is not deleted but removed by the server within about a minute: of a deletion
    others would not learn that the slots are free. One that is `followed` is removed once those who wait for its end
    have been seen to. The garbage collector needs not know of it (`gc`): nothing that it holds can hold it.
    """

    id: ObjectId
    queue: str
    claim_id: bytes
    move: SettleMove
    result: Any = None
    error: Raised | None = None
    delay_s: float = 0.0
    keep_s: float = 0.0
    frees: bool = False
    progress: Report | None = None  # the holder's last word, if it was not written before
    followed: bool = False

    @property
    def deletes(self) -> bool:
        """Say whether the document is gone after this settlement."""
        return self.move == "succeed" and self.keep_s == 0 and not (self.frees or self.followed)


Verdict = Literal["settled", "lost", "unknown", "refused"]
"""What became of a settlement. `unknown`: the task is gone, deleted by this settlement or after a take-over. `refused`:
the server takes neither it nor the failure that would tell of that (a validator of the user's own, no room left); the
task is still held, and repeating cannot help: let go of the claim, its lease ends by itself."""


def success_of(done: Done, claim: Claim) -> Settlement:
    """Return how an attempt ends whose handler returned: whatever the time and the rule of retrying."""
    # Nearly always, once for each task that runs: by place.
    return Settlement(
        claim.id,
        claim.queue,
        claim.claim_id,
        "succeed",
        done.result,
        keep_s=KEEP_DEFAULT_S if claim.keep_s is None else claim.keep_s,
        frees=claim.has_slot,
        followed=claim.followed,
    )


def settlement_of(outcome: Outcome, claim: Claim, retry: Retry, u: float, left_s: float | None = None) -> Settlement:
    """Decide how the attempt ends. `u` is drawn from [0, 1) for the jitter of a retry; `left_s` is what is left of the
    task's total time, None where there is no limit: nothing is put off past it."""
    if isinstance(outcome, Done):
        return success_of(outcome, claim)

    def settle(move: SettleMove, **more: Any) -> Settlement:
        return Settlement(
            id=claim.id, queue=claim.queue, claim_id=claim.claim_id, move=move, frees=claim.has_slot, **more
        )

    match outcome:
        case Raised() if outcome.final or claim.is_last_attempt:
            return settle("fail", error=outcome)
        case Raised():
            error, delay_s = _retried(outcome, claim.attempt, retry, u)
            if left_s is not None and delay_s >= left_s:
                return settle("fail", error=error)
            return settle("retry_later" if delay_s > 0 else "retry", error=error, delay_s=delay_s)
        case Snoozed(delay_s) if left_s is not None and delay_s >= left_s:
            return settle("fail", error=TOTAL_OVER)
        case Snoozed(delay_s):
            return settle("snooze", delay_s=delay_s) if delay_s > 0 else settle("release")
        case CalledOff(why):
            return settle("cancel", error=why)
        case Stopped(started=True) if claim.max_attempts == 1:
            # One attempt means: rather never than twice. The handler had begun, so it must not begin again.
            why = Raised(type="Stopped", message="the worker was stopped during the only attempt")
            return settle("fail", error=why)
        case Stopped():
            return settle("release")


def _retried(error: Raised, attempt: int, retry: Retry, u: float) -> tuple[Raised, float]:
    """Decide how long the next attempt waits. What keeps a user's function from saying so is told with the error."""
    if error.after_s is not None:
        return error, error.after_s
    try:
        return error, backoff_s(retry, attempt, u, error.type)
    except Miscomputed as why:
        told = raised(error.type, f"{error.message} [{why}]", error.traceback)
        return told, backoff_s(DEFAULT_RETRY, attempt, u)


def outgrown(settlement: Settlement) -> Settlement:
    """Return what is written instead when the task would pass the server's limit with its result or error: a failure
    for good that says so. Doing the work again would give the same result."""
    what = "error" if settlement.result is None else "result"
    message = f"with its {what} the task would be larger than the 16 MB that the server takes in one document"
    return _failed(settlement, Raised(type="PayloadTooLarge", message=message))


def refused(settlement: Settlement, said: str) -> Settlement:
    """Return what is written instead when the server refuses the task as it would be then: a failure for good with what
    the server `said`."""
    return _failed(
        settlement, raised("SettlementRefused", f"the server refused to store its {settlement.move}: {said}")
    )


def uncoded(settlement: Settlement, said: str) -> Settlement:
    """Return what is written instead when the app's codec cannot encode the result: a failure for good, with what is
    `said` of it."""
    return _failed(settlement, raised("CodecFailed", said))


def _failed(settlement: Settlement, why: Raised) -> Settlement:
    return Settlement(settlement.id, settlement.queue, settlement.claim_id, "fail", error=why, frees=settlement.frees)
