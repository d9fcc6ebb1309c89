"""What is seen while it runs: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from streamq.cli.safe import plain
from streamq.cli.screen import console
from streamq.core.document import STATUSES, TERMINAL

LINE_S: Final = 2.0
"""Between two lines where there is no terminal."""

STYLES: Final = {"delayed": "yellow", "ready": "blue", "running": "cyan", "succeeded": "green", "failed": "red"}
SHOWN: Final = ("delayed", "ready", "running", "succeeded", "failed")


class Screen:
    """Stdout, for the whole run."""

    def __init__(self) -> None:
        self.console: Console = console()
        self._live: Live | None = None
        self._progress = Progress(
            TextColumn("tasks ended"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=self.console
        )
        self._bar = self._progress.add_task("", start=False, total=None)
        self._began_at = 0.0
        self._line_at = 0.0

    def say(self, line: str) -> None:
        """Print a line; above the bar while there is one."""
        self.console.print(Text(plain(line)), soft_wrap=True)

    @contextmanager
    def live(self, total: int) -> Iterator[None]:
        """Show counts as they come, for the body of the block."""
        self._began_at = time.monotonic()
        self._progress.update(self._bar, total=total)
        if not self.console.is_terminal or self.console.is_dumb_terminal:
            yield
            return
        self._progress.start_task(self._bar)
        with Live(self._drawn({}), console=self.console, auto_refresh=False) as self._live:
            yield
        self._live = None

    def show(self, counts: Mapping[str, int]) -> None:
        """Show how many tasks are in which status now."""
        ended = sum(counts.get(status, 0) for status in TERMINAL)
        if self._live is not None:
            self._progress.update(self._bar, completed=ended)
            self._live.update(self._drawn(counts), refresh=True)
        elif not self.console.is_terminal or self.console.is_dumb_terminal:
            self._print_line(counts)

    def _drawn(self, counts: Mapping[str, int]) -> Group:
        line = Text()
        for status in SHOWN:
            line.append(f"{status} ", "dim").append(f"{counts.get(status, 0):<6,}", STYLES[status])
        return Group(self._progress.get_renderable(), line)

    def _print_line(self, counts: Mapping[str, int]) -> None:
        now = time.monotonic()
        ended = sum(counts.get(status, 0) for status in TERMINAL)
        stored = sum(counts.values())
        if now - self._line_at < LINE_S and not (ended == stored == self._progress.tasks[0].total):
            return
        self._line_at = now
        shown = "  ".join(f"{status} {counts.get(status, 0):,}" for status in STATUSES if status in SHOWN)
        self.say(f"{now - self._began_at:5.1f} s  {shown}")


def show_cursor() -> None:
    """Bring the terminal's cursor back, which a live bar hides."""
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[?25h")
        sys.stdout.flush()
