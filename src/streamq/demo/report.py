"""The report at the end, for people."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table

from streamq.cli.screen import cell, table
from streamq.core.document import STATUSES
from streamq.demo.census import RETRY
from streamq.demo.tally import Tally

LARGEST: Final = 8
FAILURES: Final = 15
ERROR_CHARACTERS: Final = 80


def print_report(tally: Tally, console: Console) -> None:
    """Print all of it."""
    for part in (_statuses(tally), _latencies(tally), _largest(tally), _failures(tally)):
        if part is not None:
            console.print()
            console.print(part)
    console.print()
    console.print(_work(tally))
    console.print(_verdict(tally))


def _statuses(tally: Tally) -> Table:
    made = table("status", "tasks", right=("tasks",), title="Tasks by status", title_justify="left", title_style="bold")
    for status in STATUSES:
        if tally.statuses.get(status):
            made.add_row(cell(status), cell(f"{tally.statuses[status]:,}"))
    made.add_row(cell("all", "bold"), cell(f"{sum(tally.statuses.values()):,}", "bold"))
    return made


def _latencies(tally: Tally) -> Table:
    title = "Milliseconds from the put's call to the handler's first line"
    figures = ("n", "p50", "p99", "max")
    made = table("tasks", *figures, right=figures, title=title, title_justify="left", title_style="bold")
    rows = (
        ("put one at a time, the queue empty: pickup", tally.pickup_s["singly"]),
        ("the same, to the result in the putter's hand", tally.answer_s),
        ("put with a delay, from when they were due", tally.pickup_s["delayed"]),
        ("put in bulk: the wait in the queue, mostly", tally.pickup_s["bulk"]),
    )
    for name, times_s in rows:
        if times_s:
            shown = (_quantile_s(times_s, 0.5), _quantile_s(times_s, 0.99), max(times_s))
            made.add_row(cell(name), cell(len(times_s)), *(cell(f"{1000 * one:,.1f}") for one in shown))
    made.caption = "Failed and retried tasks are left out."
    made.caption_justify = "left"
    return made


def _largest(tally: Tally) -> Table | None:
    if not tally.modules:
        return None
    figures = ("lines", "classes", "functions")
    made = table(
        "module", *figures, right=figures, title="The largest modules", title_justify="left", title_style="bold"
    )
    for one in sorted(tally.modules, key=lambda module: (-module.lines, module.path))[:LARGEST]:
        made.add_row(cell(one.path), *(cell(f"{count:,}") for count in (one.lines, one.classes, one.functions)))
    return made


def _failures(tally: Tally) -> Table | None:
    if not tally.failures:
        return None
    title = f"Failed for good, after {RETRY.max_attempts} attempts at most"
    made = table("file", "tries", "error", right=("tries",), title=title, title_justify="left", title_style="bold")
    for one in sorted(tally.failures, key=lambda failure: failure.path)[:FAILURES]:
        made.add_row(cell(one.path), cell(one.attempts), cell(one.error[:ERROR_CHARACTERS]))
    if len(tally.failures) > FAILURES:
        made.add_row(cell(f"… and {len(tally.failures) - FAILURES:,} more"), cell(""), cell(""))
    return made


def _work(tally: Tally) -> str:
    lines, classes, functions = (
        sum(one.lines for one in tally.modules),
        sum(one.classes for one in tally.modules),
        sum(one.functions for one in tally.modules),
    )
    speed = tally.bulk / tally.bulk_s if tally.bulk_s > 0 else 0.0
    return (
        f"{lines:,} lines, {classes:,} classes and {functions:,} functions counted. The {tally.bulk:,} tasks put "
        f"in bulk or with a delay ended within {tally.bulk_s:.1f} s: {speed:,.0f} a second, parsing included."
    )


def _verdict(tally: Tally) -> str:
    if tally.is_complete:
        return f"All {tally.put:,} tasks that were put have ended and are in the database: the counts add up."
    return (
        f"THE COUNTS DO NOT ADD UP: {tally.put:,} put, {tally.counted:,} in the database, "
        f"{tally.missing:,} missing, {tally.unended:,} not ended."
    )


def _quantile_s(times_s: list[float], share: float) -> float:
    """Return the smallest time that at least `share` of them do not exceed."""
    ordered = sorted(times_s)
    return ordered[max(0, -(-len(ordered) * int(share * 100) // 100) - 1)]
