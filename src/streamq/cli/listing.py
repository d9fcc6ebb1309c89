"""Tasks as they are listed: a table for people, lines of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from rich.text import Text

from streamq.cli.safe import plain
from streamq.cli.screen import cell, console, one_line_each, say
from streamq.core.document import BLOCKED, DELAYED, RUNNING, TaskDocument
from streamq.core.jsonable import jsonable, record
from streamq.core.report import progress_of

MOST: Final = 60
"""Characters of a payload or an error in the table. `--json` has them whole."""

WIDE: Final = 120
"""Columns from which on all is shown. On a narrower terminal the note takes the payload's place, so that a task is one
line in any case."""

NAME: Final = 12
"""Characters of the name of a queue or a handler on a narrow terminal."""

STYLES: Final = {"running": "cyan", "succeeded": "green", "failed": "red", "delayed": "yellow", "ready": "blue"}


def print_tasks(found: Sequence[TaskDocument], now: datetime, *, json: bool, none: str) -> None:
    """Print tasks as lines of JSON, or as a table with ages counted from `now`; where there are none, say `none`."""
    if json:
        _print_lines(found)
    elif found:
        _print_table(found, now)
    else:
        say(none)


def _print_lines(found: Sequence[TaskDocument]) -> None:
    """Print one JSON object a task and line."""
    for document in found:
        say(json.dumps(record(document), allow_nan=False))


def _print_table(found: Sequence[TaskDocument], now: datetime) -> None:
    """Print a table, ages counted from `now`."""
    if console().width >= WIDE:
        columns: tuple[str, ...] = ("id", "queue", "task", "status", "tries", "age", "payload", "note")
    else:
        columns = ("id", "queue", "task", "status", "age", "note or payload")
    rows = [[_cells(document, now)[name] for name in columns] for document in found]
    one_line_each(columns, rows, right=("tries", "age"))


def _cells(document: TaskDocument, now: datetime) -> dict[str, Text]:
    queue, task, status = document.get("queue", ""), document.get("task") or "-", document["status"]
    most = None if console().width >= WIDE else NAME
    payload, note = _payload(document), note_of(document, now)
    return {
        "id": cell(document["_id"]),
        "queue": cell(plain(str(queue), most)),
        "task": cell(plain(str(task), most)),
        "status": cell(status, STYLES.get(status, "")),
        "tries": cell(f"{document.get('attempt', 0)}/{document.get('max_attempts', '?')}"),
        "age": cell(_age(document.get("created_at"), now)),
        "payload": cell(payload),
        "note": cell(note),
        "note or payload": cell(note or payload),
    }


def _payload(document: TaskDocument) -> str:
    return plain(json.dumps(jsonable(document.get("payload")), ensure_ascii=False), MOST)


def note_of(document: TaskDocument, now: datetime) -> str:
    """Say what a person asks next: when it starts, how far it is, what it waits for, why it failed."""
    said = _state(document, now)
    if (errors := document.get("errors")) and isinstance(errors, list) and isinstance(errors[-1], dict):
        last: Any = errors[-1]
        said.append(f"{last.get('type')}: {last.get('message')}")
    return plain("; ".join(said), MOST)


def _state(document: TaskDocument, now: datetime) -> list[str]:
    progress, blocked_by = progress_of(document), document.get("blocked_by")
    match document["status"]:
        case status if status == DELAYED and "held_up_by" in document:
            return [f"waits for a slot of {document['held_up_by']}"]
        case status if status == DELAYED:
            return [f"starts in {_span(document.get('due_at'), now)}"]
        case status if status == RUNNING:
            so_far = [] if progress is None else [f"{progress.value:g} {progress.note}".rstrip()]
            asked = ["to be cancelled"] if "cancel_to" in document else []
            return [*asked, *so_far, f"leased for {_span(document.get('lease_until'), now)}"]
        case status if status == BLOCKED and isinstance(blocked_by, list) and blocked_by:
            return [f"waits for {blocked_by[0]}" + (f" and {len(blocked_by) - 1} more" if len(blocked_by) > 1 else "")]
        case status if status == BLOCKED and "group" in document:
            return [f"waits for its turn in group {document['group']}"]
    return []


def _span(until: datetime | None, now: datetime) -> str:
    return "?" if not isinstance(until, datetime) else seconds(max((until - now).total_seconds(), 0.0))


def _age(at: datetime | None, now: datetime) -> str:
    return "?" if not isinstance(at, datetime) else seconds(max((now - at).total_seconds(), 0.0))


def seconds(count: float) -> str:
    """Return a span of time in the unit that people would choose."""
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if count >= 2 * size:
            return f"{count / size:.0f} {name}"
    return f"{count:.0f} s"
