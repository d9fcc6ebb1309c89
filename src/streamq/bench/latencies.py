"""Latencies: an HdrHistogram of microseconds, and what is read off it in ms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Self

from hdrh.histogram import HdrHistogram

HIGHEST_US: Final = 3_600_000_000
DIGITS: Final = 3

SHARES: Final = (("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p999", 99.9))


class Latencies:
    """How long something took, over and over."""

    def __init__(self, encoded: str | None = None) -> None:
        self._hdr: Any = HdrHistogram(1, HIGHEST_US, DIGITS) if encoded is None else HdrHistogram.decode(encoded)

    @classmethod
    def of(cls, samples_ns: Iterable[int]) -> Self:
        """Make one of samples in ns."""
        made = cls()
        made.add(samples_ns)
        return made

    def add(self, samples_ns: Iterable[int]) -> None:
        """Record samples. What is below a microsecond (or, by clocks that differ, below nothing) counts as one."""
        for one in samples_ns:
            self._hdr.record_value(min(HIGHEST_US, max(1, one // 1_000)))

    @property
    def count(self) -> int:
        """How many were recorded."""
        return int(self._hdr.get_total_count())

    def ms(self, percentile: float) -> float:
        """The latency that `percentile` of the samples did not exceed."""
        return round(float(self._hdr.get_value_at_percentile(percentile)) / 1_000, 3)

    def figures(self) -> dict[str, float]:
        """The usual percentiles in ms; none of nothing."""
        if not self.count:
            return {"count": 0}
        found = {f"{name}_ms": self.ms(percentile) for name, percentile in SHARES}
        return found | {"max_ms": round(float(self._hdr.get_max_value()) / 1_000, 3), "count": self.count}

    def encoded(self) -> str:
        """The whole histogram, as HdrHistogram's own text."""
        said: bytes = self._hdr.encode()
        return said.decode("ascii")
