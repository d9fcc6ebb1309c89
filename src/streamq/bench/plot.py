"""Plots of a result: the latencies by percentile, and figures over the time of the run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from streamq.bench.latencies import Latencies
from streamq.bench.result import FLOOR, Result
from streamq.errors import UsageError

SHARES: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)
COLOURS: Final = {FLOOR: "tab:gray"}


def plot(result: Result, path: Path) -> None:
    """Draw what there is to draw into a file; its ending says which format."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UsageError("plots need matplotlib: pip install 'streamq[bench]'") from error
    kinds = [draw for given, draw in ((result.histograms, _percentiles), (result.tracks, _over_time)) if given]
    figure = Figure(figsize=(6.4 * max(1, len(kinds)), 4.4), layout="constrained")
    if not kinds:
        figure.add_subplot().bar(list(result.figures), [_height(one) for one in result.figures.values()])
    for place, draw in enumerate(kinds, start=1):
        draw(figure.add_subplot(1, len(kinds), place), result)
    figure.suptitle(f"{result.scenario} · {result.began_at} · {result.machine.get('cpu', '')}", fontsize=9)
    figure.savefig(path)


def _percentiles(axes: Any, result: Result) -> None:
    for name, encoded in result.histograms.items():
        latencies = Latencies(encoded)
        points = _points(latencies.count)
        axes.plot(
            [_place(one) for one in points], [latencies.ms(one) for one in points], label=name, color=_colour(name)
        )
    axes.set_xticks([_place(one) for one in SHARES], [f"{one:g}" for one in SHARES])
    axes.set_xlabel("percentile")
    axes.set_ylabel("ms")
    axes.set_yscale("log")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()


def _points(count: int) -> list[float]:
    """Percentiles that so many samples can tell apart, evenly on a scale of nines."""
    nines = 0
    while 10**nines < count and nines < 5:
        nines += 1
    return [100 * (1 - 10 ** (-step / 20)) for step in range(nines * 20 + 1)]


def _place(percentile: float) -> float:
    """Where a percentile stands on a scale of nines."""
    return -math.log10(max(1e-6, 1 - percentile / 100))


def _over_time(axes: Any, result: Result) -> None:
    for name, track in result.tracks.items():
        axes.plot([at for at, _ in track], [value for _, value in track], ".-", label=name, color=_colour(name))
    axes.set_xlabel("s")
    axes.set_ylabel(result.track_of)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()


def _colour(name: str) -> str | None:
    return COLOURS.get(name)


def _height(figures: dict[str, Any]) -> float:
    return next((float(one) for one in figures.values() if isinstance(one, int | float)), 0.0)
