"""`streamq peek QUEUE`: what is claimed next."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from streamq.cli.listing import print_tasks
from streamq.cli.place import HERE, Place, opened
from streamq.core.options import require_count, require_queue


def peek(
    queue: Annotated[str, Parameter(help="The queue's name.")],
    /,
    *,
    limit: Annotated[int, Parameter(help="How many at most.")] = 10,
    tail: Annotated[bool, Parameter(negative=(), show_default=False, help="Those that are claimed last.")] = False,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="One JSON object a task and line.")] = False,
    place: Place = HERE,
) -> None:
    """Show the ready tasks of a queue in the order of their claims. Claims nothing."""
    require_queue(queue)
    require_count(limit, "--limit")
    with opened(place) as app:
        found = app.store.peek(queue, limit=limit, tail=tail)
        now = app.store.now()
    print_tasks(found, now, json=json, none=f"no ready tasks in {queue}")
