"""Which server, database and collection: the options that all commands share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

from streamq.app import StreamQ
from streamq.errors import UsageError

WHERE = Group("Where the tasks are")


@Parameter(name="*", group=WHERE)
@dataclass(frozen=True)
class Place:
    """Where the tasks are; None: as the environment or the app says."""

    uri: Annotated[str | None, Parameter(help="Connection string; default: $STREAMQ_URI.")] = None
    database: Annotated[str | None, Parameter(help="Default: streamq, or the app's own.")] = None
    collection: Annotated[str | None, Parameter(help="Default: tasks, or the app's own.")] = None

    def arguments(self) -> list[str]:
        """Return the command line that says this."""
        given = {"--uri": self.uri, "--database": self.database, "--collection": self.collection}
        return [part for name, value in given.items() if value is not None for part in (name, value)]

    def move(self, app: StreamQ) -> None:
        """Let an app that was made elsewhere use this place, as far as it says one."""
        uri = self.uri
        if app.is_embedded and uri is None:
            uri = os.environ.get("STREAMQ_URI")
            if not uri:
                raise UsageError(
                    "the app uses StreamQ.embedded(), a server that ends with this command and that no other program "
                    "sees: give --uri or set STREAMQ_URI (`streamq dev` runs one), or make the app with StreamQ()"
                )
        app.point_at(uri, database=self.database, collection=self.collection)


HERE = Place()


@contextmanager
def opened(place: Place, dead_letters: str | None = None) -> Iterator[StreamQ]:
    """Give an app without handlers at `place`. Raises `UsageError` when no server is named."""
    if not (place.uri or os.environ.get("STREAMQ_URI")):
        raise UsageError(
            "no server is named: give --uri or set STREAMQ_URI (to try things out, `streamq dev` runs one)"
        )
    app = StreamQ(dead_letter_collection=dead_letters)
    place.move(app)
    try:
        yield app
    finally:
        app.close()
