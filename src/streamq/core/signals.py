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
