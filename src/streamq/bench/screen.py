"""What people see of a run: a progress bar while it lasts, then a table of figures side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streamq.bench.result import Figures, Result

PIPE_WIDTH = 200
HIDDEN = ("histograms", "tracks", "track_of", "machine", "options", "unfinished", "scenario", "began_at", "took_s")


class Bar(Protocol):
    """A progress bar."""

    def begin(self, doing: str, steps: int) -> None:
        """So many steps of this lie ahead."""

    def say(self, doing: str) -> None:
        """This is being done now."""

    def step(self) -> None:
        """One more is done."""


class RichBar:
    """On a terminal; silent elsewhere."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name
        self._task = progress.add_task(name, total=None)

    def begin(self, doing: str, steps: int) -> None:
        """See `Bar.begin`."""
        self._progress.update(self._task, total=steps, completed=0)
        self.say(doing)

    def say(self, doing: str) -> None:
        """See `Bar.say`."""
        self._progress.update(self._task, description=f"{self._name}: {doing}")

    def step(self) -> None:
        """See `Bar.step`."""
        self._progress.advance(self._task)


@contextmanager
def progress(name: str) -> Iterator[Bar]:
    """Show a progress bar on stderr while the block lasts."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        yield RichBar(shown, name)


def show(result: Result, *, to_stderr: bool) -> None:
    """Print the figures for people."""
    console = Console(stderr=to_stderr, highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(stderr=to_stderr, highlight=False, markup=False, width=PIPE_WIDTH)
    console.print(f"{result.scenario}: {_flat(result.options)}")
    console.print(_contenders(result.figures))
    for name, value in result.more.items():
        _print_more(console, name, value)
    for name, value in result.ratios.items():
        console.print(f"{name} (streamq / floor): {'–' if value is None else value}")
    for one in result.unfinished:
        console.print(f"not done in time: {one}", style="yellow")
    console.print(f"{result.took_s:.1f} s on {_flat(result.machine)}")


def _contenders(figures: Mapping[str, Figures]) -> Table:
    names = list(figures)
    table = Table("", *names, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in dict.fromkeys(key for name in names for key in figures[name]):
        table.add_row(row, *(_cell(figures[name].get(row)) for name in names))
    return table


def _print_more(console: Console, name: str, value: Any) -> None:
    if isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
        rows = list(value)
        columns = list(dict.fromkeys(key for one in value.values() for key in one))
        table = Table(name, *columns, box=None, pad_edge=False)
        for row in rows:
            table.add_row(str(row), *(_cell(value[row].get(column)) for column in columns))
        console.print(table)
    else:
        console.print(f"{name}: {_cell(value)}")


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:g}"
    return _flat(value) if isinstance(value, dict) else str(value)


def _flat(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_cell(one)}" for name, one in value.items())
