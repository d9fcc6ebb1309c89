"""`streamq counts`: how many tasks of each queue are in which status."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated

from cyclopts import Parameter

from streamq.app import StreamQ
from streamq.cli.place import HERE, Place, opened
from streamq.cli.safe import plain
from streamq.cli.screen import cell, console, say, table
from streamq.core.document import STATUSES
from streamq.core.unclaimed import Unclaimed
from streamq.errors import UsageError

Counts = Mapping[str, Mapping[str, int]]


def counts(
    *,
    json: Annotated[
        bool, Parameter(negative=(), show_default=False, help="One JSON object a queue and line, every status in it.")
    ] = False,
    place: Place = HERE,
) -> None:
    """Count the stored tasks by queue and status.

    Says which queues are paused, and how many ready tasks are for a handler that no live worker knows. With --app the
    queues of its handlers are listed though they are empty, and its dead letters are counted.
    """
    with opened(place) as app:
        counted = app.store.counts()  # reading needs no index and makes none
        paused = app.store.paused(None)
        unclaimed = [one for one in app.store.unclaimed() if one.task is not None]
        dead = _dead(app)
        counted = {**{queue: {} for queue in (*_declared(app), *paused, *dead)}, **counted}
    if json:
        _print_lines(counted, paused, unclaimed, dead)
    elif counted:
        _print_table(counted, paused)
        for one in unclaimed:
            say(plain(f"{one.queue}: {one.count} ready for {one.task}, a handler that no live worker knows"))
        for queue, count in sorted(dead.items()):
            say(plain(f"{queue}: {count} dead {'letter' if count == 1 else 'letters'}"))
    else:
        say("no tasks")


def _declared(app: StreamQ) -> list[str]:
    return sorted({handling.queue for handling in app.handlers.values()})


def _dead(app: StreamQ) -> Mapping[str, int]:
    """Count the dead letters of each queue that has some; none where the app keeps failed tasks among the others."""
    try:
        letters = app.store.dead_letters()
    except UsageError:
        return {}
    return {queue: sum(row.values()) for queue, row in letters.counts().items()}


def _print_lines(
    counted: Counts, paused: Sequence[str], unclaimed: Sequence[Unclaimed], dead: Mapping[str, int]
) -> None:
    for queue in sorted(counted):
        row = {status: counted[queue].get(status, 0) for status in STATUSES}
        left = {one.task: one.count for one in unclaimed if one.queue == queue}
        say(
            json.dumps(
                {
                    "queue": queue,
                    "paused": queue in paused,
                    **row,
                    "unclaimed": left,
                    "dead_letters": dead.get(queue, 0),
                }
            )
        )


def _print_table(counted: Counts, paused: Sequence[str]) -> None:
    shown = [status for status in STATUSES if any(status in row for row in counted.values())]
    # With every status there is it fills 80 columns, and a long name goes on in further lines.
    made = table("queue", *shown, "total", right=(*shown, "total"), folding=("queue",), collapse_padding=True)
    for queue in sorted(counted):
        row = counted[queue]
        named = f"{queue} (paused)" if queue in paused else queue
        made.add_row(cell(named), *(cell(row.get(status, "")) for status in shown), cell(sum(row.values())))
    if len(counted) > 1:
        totals = [sum(row.get(status, 0) for row in counted.values()) for status in shown]
        made.add_row(*(cell(one, "bold") for one in ("total", *totals, sum(totals))))
    console().print(made)
