"""`streamq tasks`: list stored tasks, newest first."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from streamq.cli.listing import print_tasks
from streamq.cli.place import HERE, Place, opened
from streamq.cli.sought import ANY, Which, id_of
from streamq.core.options import require_count
from streamq.core.search import search_of


def tasks(
    *,
    limit: Annotated[int, Parameter(help="How many at most.")] = 20,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="One JSON object a task and line.")] = False,
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
    print_tasks(found, now, json=json, none="no tasks")
