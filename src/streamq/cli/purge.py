"""`streamq purge`: tasks that ended long ago are deleted."""

from __future__ import annotations

from json import dumps
from typing import Annotated

from cyclopts import Parameter

from streamq.cli.place import HERE, Place, opened
from streamq.cli.screen import say
from streamq.cli.sought import ANY, Which


def purge(
    *,
    older_than: Annotated[float, Parameter(help="Seconds since they ended; 0: all that have ended.")],
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="One JSON object.")] = False,
    which: Which = ANY,
    place: Place = HERE,
) -> None:
    """Delete tasks that ended long ago, and print how many; none that has not ended."""
    sought = which.sought()
    with opened(place) as app:
        count = app.blocking.desk.purge(older_than_s=older_than, **sought)
    say(dumps({"purged": count}) if json else f"purged {count}")
