"""`streamq show ID`: one task, with all that is known of it."""

from __future__ import annotations

import json
from typing import Annotated, Any

from cyclopts import Parameter

from streamq.cli.place import HERE, Place, opened
from streamq.cli.safe import plain
from streamq.cli.screen import say
from streamq.cli.sought import id_of
from streamq.core.jsonable import record
from streamq.errors import TaskGone


def show(
    id: Annotated[str, Parameter(help="The task's id.")],
    /,
    *,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="One JSON object.")] = False,
    place: Place = HERE,
) -> None:
    """Print one task, its errors with their tracebacks."""
    known = id_of(id)
    with opened(place) as app:
        document = app.store.get(known)
    if document is None:
        raise TaskGone(f"task {known} is not stored (any more)")
    shown = record(document)
    if json:
        say(_line(shown))
        return
    errors = shown.pop("errors", [])
    for name, value in shown.items():
        text = value if isinstance(value, str) else json_text(value)
        say(f"{plain(name) + ':':<14}{plain(text)}")
    for error in errors:
        _print_error(error)


def _line(shown: dict[str, Any]) -> str:
    return json.dumps(shown, allow_nan=False)


def json_text(value: Any) -> str:
    """Return a value as JSON for people."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _print_error(error: Any) -> None:
    if not isinstance(error, dict):
        say(plain(json_text(error)))
        return
    at, attempt, worker = (error.get(name, "?") for name in ("at", "attempt", "worker"))
    say("")
    say(plain(f"attempt {attempt} on {worker} at {at}: {error.get('type', '?')}: {error.get('message', '')}"))
    for line in str(error.get("traceback", "")).splitlines():
        say("    " + plain(line))
