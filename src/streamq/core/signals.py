"""What a handler may raise to say how its attempt ends. Not errors: words of the conversation."""

from __future__ import annotations

from streamq.core.options import require_delay_s


class Snooze(Exception):
    """Put the running task back for `delay_s` seconds without using up an attempt.

    Raise it in a handler: `raise Snooze(30)`.
    """

    def __init__(self, delay_s: float) -> None:
        self.delay_s = require_delay_s(delay_s)
        super().__init__(f"snoozed for {self.delay_s:g} s")
