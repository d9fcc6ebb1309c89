"""`streamq workers`: who works, and since when nothing was heard of whom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from streamq.cli.place import HERE, Place, opened
from streamq.cli.screen import cell, console, say, table
from streamq.core.jsonable import jsonable
from streamq.core.workers import WorkerView


def workers(
    *,
    json: Annotated[
        bool, Parameter(negative=(), show_default=False, help="One JSON object a worker and line.")
    ] = False,
    place: Place = HERE,
) -> None:
    """List the processes that send heartbeats, and who else holds tasks."""
    with opened(place) as app:
        listed = app.blocking.desk.workers()
    if json:
        _print_lines(listed)
    elif listed:
        _print_table(listed)
    else:
        say("no workers")


def _print_lines(listed: Sequence[WorkerView]) -> None:
    for one in listed:
        row = {name: jsonable(getattr(one, name)) for name in one.__struct_fields__ if name != "queues"}
        say(json.dumps({**row, "queues": list(one.queues), "is_alive": one.is_alive}))


def _print_table(listed: Sequence[WorkerView]) -> None:
    columns = ("worker", "host", "pid", "queues", "slots", "running", "heard")
    made = table(*columns, right=("pid", "slots", "running", "heard"), folding=("queues",))
    for one in listed:
        heard = "never" if one.beat_age_s is None else f"{one.beat_age_s:.0f} s ago"
        made.add_row(
            cell(one.name),
            cell(one.host or "-"),
            cell(one.pid or "-"),
            cell(", ".join(one.queues) or "-"),
            cell(one.slots),
            cell(one.running),
            cell(heard, "" if one.is_alive or one.id is None else "red"),
        )
    console().print(made)
