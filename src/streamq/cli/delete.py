"""`streamq delete ID`: one task is deleted."""

from __future__ import annotations

from json import dumps
from typing import Annotated

from cyclopts import Parameter

from streamq.cli.place import HERE, Place, opened
from streamq.cli.screen import say
from streamq.cli.sought import id_of
from streamq.errors import TaskGone


def delete(
    id: Annotated[str, Parameter(help="The task's id.")],
    /,
    *,
    force: Annotated[
        bool, Parameter(negative=(), show_default=False, help="A running one too; its handler is cancelled.")
    ] = False,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="One JSON object.")] = False,
    place: Place = HERE,
) -> None:
    """Delete one task, whatever has become of it."""
    known = id_of(id)
    with opened(place) as app:
        if not app.blocking.desk.delete(known, force=force):
            raise TaskGone(f"task {known} is not stored (any more)")
    say(dumps({"deleted": str(known)}) if json else f"deleted {known}")
