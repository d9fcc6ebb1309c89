"""How long to wait before the next attempt. Pure: chance is an argument."""

from __future__ import annotations

import msgspec

from streamq.errors import OptionInvalid

MAX_DELAY_S = 10 * 365 * 86_400.0
"""Ten years. Longer is taken for a mistake in units; BSON dates reach much further."""


class Retry(msgspec.Struct, frozen=True):
    """Exponential backoff with full jitter: attempt n waits a random time up to `first_s * factor ** (n - 1)`.

    Args:
        max_attempts: how often a task may be claimed before a failure is final, 1 or more.
        first_s: the ceiling of the first wait, in seconds.
        factor: what each further failure multiplies the ceiling by, 1 or more.
        cap_s: the highest ceiling, in seconds.
        jitter: draw uniformly from zero to the ceiling; False waits the ceiling itself.

    Full jitter spreads a crowd of failures best: M. Brooker, "Exponential Backoff And Jitter", AWS, 2015.
    """

    max_attempts: int = 5
    first_s: float = 1.0
    factor: float = 2.0
    cap_s: float = 300.0
    jitter: bool = True

    def __post_init__(self) -> None:
        require_max_attempts(self.max_attempts)
        for name, value, least in (
            ("first_s", self.first_s, 0.0),
            ("factor", self.factor, 1.0),
            ("cap_s", self.cap_s, 0.0),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= MAX_DELAY_S:
                raise OptionInvalid(f"Retry.{name}", value, f"a number of at least {least:g}")


def require_max_attempts(value: object) -> int:
    """Return `value` if it can be a number of attempts, else raise `OptionInvalid`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise OptionInvalid("max_attempts", value, "an int from 1 to 1,000,000")
    return value


def backoff_s(retry: Retry, attempt: int, u: float) -> float:
    """Return how many seconds to wait after failed `attempt` (from 1); `u` is drawn from [0, 1)."""
    try:
        ceiling = min(retry.cap_s, retry.first_s * float(retry.factor) ** (attempt - 1))
    except OverflowError:  # long before a million attempts
        ceiling = retry.cap_s if retry.first_s else 0.0
    return ceiling * u if retry.jitter else ceiling
