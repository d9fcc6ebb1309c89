"""Rates of contenders over the rounds of a run: the median of the rounds is what is compared."""

from __future__ import annotations

import statistics
import time

from streamq.bench.result import FLOOR, STREAMQ, Figures, Track, ratio


class Rates:
    """Tasks per second."""

    def __init__(self) -> None:
        self.tracks: dict[str, Track] = {}
        self._began = time.monotonic()

    def add(self, name: str, count: int, seconds: float) -> None:
        """Add a round in which `count` tasks took so long; nothing if there were none."""
        if count and seconds > 0:
            at = round(time.monotonic() - self._began, 1)
            self.tracks.setdefault(name, []).append((at, round(count / seconds, 1)))

    def median(self, name: str) -> float | None:
        """The median of a contender's rounds; None before its first."""
        rounds = [rate for _, rate in self.tracks.get(name, [])]
        return round(statistics.median(rounds), 1) if rounds else None

    def figures(self) -> dict[str, Figures]:
        """Median, least and most of each contender."""
        found = {}
        for name, track in self.tracks.items():
            rounds = [rate for _, rate in track]
            found[name] = {"per_s": self.median(name), "least": min(rounds), "most": max(rounds), "rounds": len(rounds)}
        return found

    def ratio(self) -> float | None:
        """streamq / floor, of the medians."""
        return ratio(self.median(STREAMQ), self.median(FLOOR))

    def ratios(self) -> dict[str, float | None]:
        """The same under its name."""
        return {"ratio": self.ratio()}
