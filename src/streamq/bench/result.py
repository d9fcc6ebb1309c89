"""The answer of a run: figures of streamq and of the floor, their ratios, and what they were measured on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from streamq.bench.latencies import Latencies
from streamq.errors import UsageError

FLOOR: Final = "floor"
STREAMQ: Final = "streamq"
CONTENDERS: Final = (FLOOR, STREAMQ)
TAILABLE: Final = "tailable"
"""streamq with its wake channel, beside streamq without."""

Figures = dict[str, Any]
Track = list[tuple[float, float]]
"""Seconds into the run, and a figure."""


class Result(msgspec.Struct):
    """What a scenario found. `ratios` are streamq / floor (None: one of them is missing or 0); `histograms` are
    HdrHistograms of microseconds; `tracks` are figures over the time of the run, named by contender."""

    scenario: str
    options: Figures
    ratios: dict[str, float | None]
    figures: dict[str, Figures]
    more: Figures = {}
    unfinished: list[str] = []
    histograms: dict[str, str] = {}
    tracks: dict[str, Track] = {}
    track_of: str = ""
    machine: Figures = {}
    began_at: str = ""
    took_s: float = 0.0

    def line(self) -> str:
        """One line of JSON: the ratios first, beside the figures of each contender."""
        rest = msgspec.to_builtins(self)
        ratios, figures, more = rest.pop("ratios"), rest.pop("figures"), rest.pop("more")
        return json.dumps({"scenario": rest.pop("scenario"), **ratios, **figures, **more, **rest})


def ratio(ours: float | None, floor: float | None) -> float | None:
    """streamq / floor; None when there is nothing to divide, or by."""
    return round(ours / floor, 3) if ours is not None and floor else None


def latency_ratios(figures: Mapping[str, Figures]) -> dict[str, float | None]:
    """`ratio_p50` and `ratio_p99` of two contenders' latencies."""
    ours, floor = figures.get(STREAMQ, {}), figures.get(FLOOR, {})
    return {f"ratio_{name}": ratio(ours.get(f"{name}_ms"), floor.get(f"{name}_ms")) for name in ("p50", "p99")}


def figures_of(latencies: Mapping[str, Latencies]) -> dict[str, Figures]:
    """The percentiles of each contender."""
    return {name: dict(one.figures()) for name, one in latencies.items()}


def encoded(latencies: Mapping[str, Latencies]) -> dict[str, str]:
    """The histograms of each contender that has samples."""
    return {name: one.encoded() for name, one in latencies.items() if one.count}


def read(path: Path) -> Figures:
    """Read the last line of a file that a run with `--json` wrote. Raises `UsageError`."""
    try:
        lines = path.read_text().splitlines()
        found = json.loads(lines[-1])
    except (OSError, ValueError, IndexError) as error:
        raise UsageError(f"{path} does not end with the line of a `streamq bench … --json`: {error}") from error
    if not isinstance(found, dict) or "scenario" not in found:
        raise UsageError(f"{path} does not end with the line of a `streamq bench … --json`")
    return found
