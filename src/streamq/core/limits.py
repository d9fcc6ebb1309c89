"""The limits of a queue across all workers, as values: how often its tasks may start, and how many may run at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from streamq.core.options import require_count
from streamq.core.retry import MAX_DELAY_S
from streamq.errors import OptionInvalid

LARGEST_BURST: Final = 1_000_000
MOST_RUNNING: Final = 1_000
"""Slots of one limit. Each claim reads which of them are taken; a limit of more is better left to the workers' own."""


class Rate(msgspec.Struct, frozen=True):
    """A rate of starts: `count` in each `per_s` seconds, evenly, and after a pause up to `burst` at once.

        Rate(100, per_s=60)             100 a minute, one every 0.6 s; after a pause up to 100 at once
        Rate(10, per_s=1, burst=1)      never two within a tenth of a second

    A token bucket: it holds `burst` tokens (default: `count`), gains `count / per_s` a second, and a start costs one.
    Over any span of t seconds at most `burst + t * count / per_s` tasks start.
    """

    count: int
    per_s: float = 1.0
    burst: int | None = None

    def __post_init__(self) -> None:
        require_count(self.count, "Rate.count", most=LARGEST_BURST)
        per_s = self.per_s
        if isinstance(per_s, bool) or not isinstance(per_s, int | float) or not 0.001 <= per_s <= MAX_DELAY_S:
            raise OptionInvalid("Rate.per_s", per_s, "seconds from 0.001 to ten years, as an int or float")
        if self.burst is not None:
            require_count(self.burst, "Rate.burst", most=LARGEST_BURST)

    @property
    def a_second(self) -> float:
        """Tokens gained in a second."""
        return self.count / self.per_s

    @property
    def most(self) -> int:
        """Tokens that a bucket can hold."""
        return self.count if self.burst is None else self.burst


class Limits(msgspec.Struct, frozen=True):
    """The limits of one queue. `rate` and `running` hold for the queue as a whole, `key_rate` and `key_running` for the
    tasks of each `rate_key` by themselves; None is no limit."""

    rate: Rate | None = None
    running: int | None = None
    key_rate: Rate | None = None
    key_running: int | None = None

    def __post_init__(self) -> None:
        for name, rate in (("rate", self.rate), ("key_rate", self.key_rate)):
            if rate is not None and not isinstance(rate, Rate):
                raise OptionInvalid(name, rate, "a Rate, e.g. Rate(100, per_s=60)")
        for name, running in (("running", self.running), ("key_running", self.key_running)):
            if running is not None:
                require_count(running, name, most=MOST_RUNNING)
        if all(limit is None for limit in (self.rate, self.running, self.key_rate, self.key_running)):
            raise OptionInvalid("limits", None, "at least one of rate, running, key_rate, key_running")

    @property
    def by_key(self) -> bool:
        """Say whether tasks of one key can be held up while others go on."""
        return self.key_rate is not None or self.key_running is not None

    @property
    def of_running(self) -> bool:
        """Say whether a claim has to take a slot."""
        return self.running is not None or self.key_running is not None


def free_slots(limit: int, taken: Iterable[int]) -> list[int]:
    """Return the slots of a limit that are free, lowest first; as many as may still be taken.

    More may be taken than the limit has: it was lowered while tasks ran.
    """
    held = set(taken)
    return [slot for slot in range(limit) if slot not in held][: max(0, limit - len(held))]


def key_slot(key: str, slot: int) -> str:
    """Name one slot of a key."""
    return f"{slot}:{key}"


def slot_of_key(name: str) -> tuple[int, str]:
    """Read what `key_slot` named."""
    slot, _, key = name.partition(":")
    return int(slot), key


def queue_bucket(queue: str) -> str:
    """Name the bucket of a queue's rate."""
    return f"rate:{queue}"


def key_bucket(queue: str, key: str) -> str:
    """Name the bucket of one key's rate. A queue's name has no blank, so no two buckets share a name."""
    return f"rate:{queue} {key}"


def waits_s(rate: Rate, tokens: float, refused: int) -> Sequence[float]:
    """Say in how many seconds each of `refused` tasks has its token, when `tokens` (less than one) are left."""
    return [(place + 1 - tokens) / rate.a_second for place in range(refused)]
