"""Where things are printed: tables and answers on stdout, complaints on stderr, none of it read as markup."""

from __future__ import annotations

import sys
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamq.cli.safe import plain

PIPE_WIDTH: Final = 500
"""Columns where there is no terminal: a file or a pipe has no edge to cut lines at."""


def console() -> Console:
    """Return stdout for tables: colours and the terminal's width on a terminal, neither elsewhere."""
    there = Console(highlight=False, markup=False, emoji=False)
    if not there.is_terminal:
        there = Console(highlight=False, markup=False, emoji=False, width=PIPE_WIDTH)
    return there


def table(*columns: str, right: tuple[str, ...] = (), folding: tuple[str, ...] = (), **options: Any) -> Table:
    """Return an empty table; columns in `right` are aligned to the right, those in `folding` give way to the others
    where the terminal is narrow."""
    made = Table(box=None, pad_edge=False, header_style="bold", **options)
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column not in folding,
            overflow="fold" if column in folding else "ellipsis",
        )
    return made


def cell(value: object, style: str = "") -> Text:
    """Return `value` as the text of one cell, whatever it holds."""
    return Text(plain(str(value)), style=style)


def say(line: str) -> None:
    """Print one line of an answer, as it is."""
    print(line, flush=True)


def write(line: str) -> None:
    """Print one line of many: what is read by programs need not come at once."""
    print(line)


def complain(message: str) -> None:
    """Print a complaint: one line, or an error's own lines of advice."""
    lines = [plain(line) for line in message.splitlines()]
    print("streamq: " + "\n".join(lines), file=sys.stderr, flush=True)
