"""A run as a picture: pickup latency on the left, rates on the right, streamq marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.peers.result import Entry, Figure, Run
from bench.peers.table import FLOOR, OURS

COLOURS = {"mongo": "#13aa52", "postgres": "#336791", "redis": "#d82c20"}
FLOOR_COLOUR = "#9a9a9a"
SERVERS = {"mongo": "MongoDB", "postgres": "PostgreSQL (fsync)", "redis": "Redis (fsync every second)"}


def draw(run: Run, path: Path) -> None:
    """Draw into a file; its ending says in which format (svg, png)."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "streamq"  # the same figures give the same file
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    entries = [entry for entry in run.entries if entry.failed is None]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 1.6 + 0.42 * len(entries)), layout="constrained")
    by_pickup = _ranked(entries, "p50_ms", reverse=True)
    _bars(left, by_pickup, "p50_ms", "p99_ms", "{:,.2f}")
    left.set_title(f"pickup at {run.rate:g} puts/s, ms: p50, p99 (pale)")
    by_rate = _ranked(entries, "throughput_per_s", reverse=False)
    _bars(right, by_rate, "throughput_per_s", "drain_per_s", "{:,.0f}")
    right.set_title("tasks/s: put → settled, drain (pale)")
    kinds = {entry.kind for entry in entries}
    shown = [Patch(color=FLOOR_COLOUR, label="floor: plain PyMongo")]
    shown += [Patch(color=colour, label=SERVERS[kind]) for kind, colour in COLOURS.items() if kind in kinds]
    figure.legend(handles=shown, loc="outside lower center", ncols=len(shown), frameon=False)
    figure.suptitle(
        f"streamq and its peers, {run.at[:10]}: one producer, one consumer process, {run.machine['cores']} cores"
    )
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _ranked(entries: list[Entry], name: Figure, *, reverse: bool) -> list[Entry]:
    """Order by a figure, the best last: bars are drawn upwards."""
    known = [(value, entry) for entry in entries if (value := entry.figure(name)) is not None]
    return [entry for _, entry in sorted(known, key=lambda one: one[0], reverse=reverse)]


def _bars(axes: Any, entries: list[Entry], strong: Figure, pale: Figure, shape: str) -> None:
    for row, entry in enumerate(entries):
        colour = FLOOR_COLOUR if entry.name == FLOOR else COLOURS[entry.kind]
        for name, offset, alpha in ((strong, 0.19, 1.0), (pale, -0.19, 0.4)):
            value = entry.figure(name)
            if value is not None:
                axes.barh(row + offset, value, height=0.36, color=colour, alpha=alpha)
                axes.annotate(
                    shape.format(value), (value, row + offset), (3, 0), textcoords="offset points", va="center"
                )
    axes.set_yticks(range(len(entries)), [entry.name for entry in entries])
    for label, entry in zip(axes.get_yticklabels(), entries, strict=True):
        label.set_fontweight("bold" if entry.name == OURS else "normal")
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
