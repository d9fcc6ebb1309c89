"""Two answers side by side."""

from __future__ import annotations

import json as jsons
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from streamq.bench.options import Flag
from streamq.bench.result import ratio, read
from streamq.bench.screen import HIDDEN
from streamq.errors import UsageError


def compare(
    a: Path, b: Path, /, *, json: Annotated[bool, Flag, Parameter(help="One line of JSON on stdout.")] = False
) -> None:
    """Compare two answers of one scenario (files that end with the line of --json): each figure, and b / a.

    Figures of two runs differ by what the machine did meanwhile: look at the ratios to the floor first.
    """
    first, second = read(a), read(b)
    if first["scenario"] != second["scenario"]:
        raise UsageError(f"{a} is of {first['scenario']!r} and {b} of {second['scenario']!r}: nothing to compare")
    theirs = dict(_numbers(second))
    rows = {
        name: (value, theirs[name], ratio(theirs[name], value)) for name, value in _numbers(first) if name in theirs
    }
    differing = _differing(first, second)
    if json:
        named = {name: {"a": one, "b": other, "b/a": by} for name, (one, other, by) in rows.items()}
        print(jsons.dumps({"scenario": first["scenario"], "differs": differing, "figures": named}))
        return
    table = Table(first["scenario"], "a", "b", "b / a", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, (one, other, by) in rows.items():
        table.add_row(name, f"{one:,g}", f"{other:,g}", "–" if by is None else f"{by:g}")
    console = Console(highlight=False, markup=False)
    console.print(table)
    for name, (one, other) in differing.items():
        console.print(f"differs: {name}: {one} | {other}")


def _numbers(found: dict[str, Any], under: str = "") -> Iterator[tuple[str, float]]:
    for name, value in found.items():
        if not under and name in HIDDEN:
            continue
        path = f"{under}.{name}" if under else name
        if isinstance(value, dict):
            yield from _numbers(value, path)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, value


def _differing(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Name the options and traits of the machine that are not the same."""
    found = {}
    for room in ("options", "machine"):
        one, other = first.get(room, {}), second.get(room, {})
        for name in sorted({*one, *other} - {"load"}):
            if one.get(name) != other.get(name):
                found[f"{room}.{name}"] = (one.get(name), other.get(name))
    return found
