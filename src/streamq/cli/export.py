"""`streamq export`: all tasks found, as NDJSON on stdout."""

from __future__ import annotations

from streamq.cli.place import HERE, Place, opened
from streamq.cli.screen import write
from streamq.cli.sought import ANY, Which


def export(*, which: Which = ANY, place: Place = HERE) -> None:
    """Print stored tasks as JSON, one object a line, newest first; however many there are."""
    sought = which.sought()
    with opened(place) as app:
        for line in app.blocking.desk.export(**sought):
            write(line)
