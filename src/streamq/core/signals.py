"""What a handler may raise to say how its attempt ends. Not errors: words of the conversation."""

from __future__ import annotations

from streamq.core.options import require_delay_s, require_reason


class Snooze(Exception):
    """Put the running task back for `delay_s` seconds without using up an attempt.

    Raise it in a handler: `raise Snooze(30)`.
    """

    def __init__(self, delay_s: float) -> None:
        self.delay_s = require_delay_s(delay_s)
        super().__init__(f"snoozed for {self.delay_s:g} s")


class RetryAfter(Exception):
    """Fail the attempt and try again after exactly `delay_s` seconds, whatever the handler's `retry` says.

    The attempt is counted: on the last one the task fails. Raise it in a handler, `raise RetryAfter(30) from error`:
    then `error` is what the task keeps.
    """

    def __init__(self, delay_s: float) -> None:
        self.delay_s = require_delay_s(delay_s)
        super().__init__(f"to be tried again after {self.delay_s:g} s")


class CancelTask(Exception):
    """End the running task in `cancelled`: it is not to be done, now or later. `reason` is kept among its errors.

    Raise it in a handler: `raise CancelTask("the order was withdrawn")`.
    """

    def __init__(self, reason: str = "") -> None:
        self.reason = require_reason(reason)
        super().__init__(reason or "cancelled")


class TransactionAborted(Snooze):
    """The task's transaction was given up for a reason that passes (a write conflict, an election): nothing of it is
    stored.

    Out of a handler, or of `async with task:`, it puts the task back without using up the attempt. Where a task is
    settled by hand it is still held: release it, or begin another transaction.
    """

    def __init__(self, reason: str, delay_s: float = 0.1) -> None:
        super().__init__(delay_s)
        self.reason = reason
        self.args = (f"the transaction was given up, nothing of it is stored: {reason}",)
