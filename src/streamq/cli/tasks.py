"""`streamq tasks`: list stored tasks, newest first."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

from cyclopts import Parameter

from streamq.cli.place import HERE, Place, opened
from streamq.cli.safe import plain
from streamq.cli.screen import cell, console, say, table
from streamq.cli.sought import ANY, Which, id_of
from streamq.core.document import DELAYED, RUNNING, TaskDocument
from streamq.core.jsonable import jsonable, record
from streamq.core.options import require_count
from streamq.core.search import search_of

MOST = 60
"""Characters of a payload or an error in the table. `--json` has them whole."""

STYLES = {"running": "cyan", "succeeded": "green", "failed": "red", "delayed": "yellow", "ready": "blue"}


def tasks(
    *,
    limit: Annotated[int, Parameter(help="How many at most.")] = 20,
    json: Annotated[bool, Parameter(negative=(), help="One JSON object a task and line.")] = False,
    after: Annotated[str | None, Parameter(help="Begin beyond this id: the last of the page before.")] = None,
    which: Which = ANY,
    place: Place = HERE,
) -> None:
    """List stored tasks, newest first."""
    require_count(limit, "--limit")
    search = search_of(which.sought())
    begin = None if after is None else id_of(after)
    with opened(place) as app:
        found = app.store.find(search, limit=limit, after=begin)
        now = app.store.now()
    if json:
        _print_lines(found)
    elif found:
        _print_table(found, now)
    else:
        say("no tasks")


def _print_lines(found: list[TaskDocument]) -> None:
    for document in found:
        say(json.dumps(record(document), allow_nan=False))


def _print_table(found: list[TaskDocument], now: datetime) -> None:
    columns = ("id", "queue", "task", "status", "tries", "age", "payload", "note")
    made = table(*columns, right=("tries", "age"), folding=("payload", "note"))
    for document in found:
        status = document["status"]
        made.add_row(
            cell(document["_id"]),
            cell(document.get("queue", "")),
            cell(document.get("task") or "-"),
            cell(status, STYLES.get(status, "")),
            cell(f"{document.get('attempt', 0)}/{document.get('max_attempts', '?')}"),
            cell(_age(document.get("created_at"), now)),
            cell(_payload(document)),
            cell(_note(document, now)),
        )
    console().print(made)


def _payload(document: TaskDocument) -> str:
    return plain(json.dumps(jsonable(document.get("payload")), ensure_ascii=False), MOST)


def _note(document: TaskDocument, now: datetime) -> str:
    """Say what a person asks next: when it starts, who has it, why it failed."""
    match document["status"]:
        case status if status == DELAYED:
            return f"starts in {_span(document.get('due_at'), now)}"
        case status if status == RUNNING:
            return f"leased for {_span(document.get('lease_until'), now)}"
    errors = document.get("errors")
    if not errors:
        return ""
    last: Any = errors[-1]
    return plain(f"{last.get('type')}: {last.get('message')}", MOST)


def _span(until: datetime | None, now: datetime) -> str:
    return "?" if until is None else _seconds(max((until - now).total_seconds(), 0.0))


def _age(at: datetime | None, now: datetime) -> str:
    return "?" if at is None else _seconds(max((now - at).total_seconds(), 0.0))


def _seconds(seconds: float) -> str:
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
