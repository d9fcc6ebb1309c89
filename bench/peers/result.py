"""What a run found, as it is stored."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

Figure = Literal["p50_ms", "p99_ms", "throughput_per_s", "drain_per_s"]
LESS_IS_BETTER: frozenset[Figure] = frozenset({"p50_ms", "p99_ms"})

QUANTILES = (0.5, 0.9, 0.99, 0.999)


class Latency(msgspec.Struct, frozen=True):
    """One round: pickup latencies in ms by quantile, and the cores that were busy meanwhile."""

    samples: int
    quantiles_ms: dict[str, float]
    consumer_cores: float
    server_cores: float | None = None


class Rate(msgspec.Struct, frozen=True):
    """One round of throughput or drain. `whole` is false where time was over before the tasks were."""

    tasks: int
    per_s: float
    whole: bool


class Entry(msgspec.Struct):
    """What was found of one contender, round by round."""

    name: str
    kind: str
    server: str
    versions: dict[str, str]
    settings: str
    durability: str
    wake: str
    latency: list[Latency] = []
    pooled_ms: dict[str, float] = {}
    throughput: list[Rate] = []
    drain: list[Rate] = []
    failed: str | None = None

    def figure(self, name: Figure) -> float | None:
        """Return a figure of all rounds: latencies of all samples together, rates as the median round; None if none."""
        match name:
            case "p50_ms" | "p99_ms":
                return self.pooled_ms.get(name.removesuffix("_ms"))
            case "throughput_per_s":
                return _median(self.throughput)
            case "drain_per_s":
                return _median(self.drain)


class Run(msgspec.Struct):
    """A whole run."""

    at: str
    machine: dict[str, object]
    rounds: int
    seconds: float
    rate: float
    entries: list[Entry]
    skipped: dict[str, str]
    took_s: float = 0.0

    def entry(self, name: str) -> Entry | None:
        """Find a contender."""
        return next((entry for entry in self.entries if entry.name == name), None)


def quantiles_ms(samples_ns: Sequence[int]) -> dict[str, float]:
    """Return the latencies that shares of the samples did not exceed, by name (p50, p99.9)."""
    ordered = sorted(samples_ns)
    last = len(ordered) - 1
    found = {f"p{share * 100:g}": round(ordered[min(last, int(share * len(ordered)))] / 1e6, 3) for share in QUANTILES}
    return found | {"max": round(ordered[last] / 1e6, 3)}


def _median(rates: Sequence[Rate]) -> float | None:
    return statistics.median(rate.per_s for rate in rates) if rates else None


def load(path: Path) -> Run:
    """Read a stored run."""
    return msgspec.json.decode(path.read_bytes(), type=Run)


def store(run: Run, path: Path) -> None:
    """Write it."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
