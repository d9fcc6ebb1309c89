"""Where things are printed: tables and answers on stdout, complaints on stderr, none of it read as markup."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamq.cli.safe import plain

PIPE_WIDTH: Final = 500
"""Columns where there is no terminal: a file or a pipe has no edge to cut lines at."""

GAP: Final = 2
"""Blanks between two columns, as rich pads them."""

LONGEST: Final = 1_000
"""Characters of one line of a complaint, which may show what was typed: 128 KiB and more."""

LEAST_WIDTH: Final = 12
"""What is left of a column that is cut."""


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


def one_line_each(columns: Sequence[str], rows: Sequence[Sequence[Text]], right: tuple[str, ...] = ()) -> None:
    """Print a table of one line a row: what does not fit is cut off the last column, as long as something is left."""
    screen = console()
    made = table(*columns, right=right)
    taken = sum(max(len(name), *(row[n].cell_len for row in rows)) + GAP for n, name in enumerate(columns[:-1]))
    for row in rows:
        row[-1].truncate(max(screen.width - taken, LEAST_WIDTH), overflow="ellipsis")
        made.add_row(*row)
    screen.print(made)


def cell(value: object, style: str = "") -> Text:
    """Return `value` as the text of one cell, whatever it holds."""
    return Text(plain(str(value)), style=style)


def answer(report: msgspec.Struct, **more: Any) -> None:
    """Print a report as one JSON object, `more` beside its fields."""
    fields = {name: getattr(report, name) for name in report.__struct_fields__}
    say(json.dumps({**fields, **more}, allow_nan=False))


def say(line: str) -> None:
    """Print one line of an answer, as it is."""
    print(line, flush=True)


def write(line: str) -> None:
    """Print one line of many: what is read by programs need not come at once."""
    print(line)


def complain(message: str) -> None:
    """Print a complaint: one line, or an error's own lines of advice."""
    lines = [plain(_brief(line)) for line in message.splitlines()]
    print("streamq: " + "\n".join(lines), file=sys.stderr, flush=True)


def _brief(line: str) -> str:
    """Cut a line in its middle: its beginning says what is wrong, its end what to do."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"
