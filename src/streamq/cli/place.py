"""Which server, database and collection: the options that all commands share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Self

from cyclopts import Group, Parameter

from streamq.app import StreamQ
from streamq.cli.locate import located
from streamq.cli.patience import patience
from streamq.core.notice import WakeBy
from streamq.errors import UsageError
from streamq.store.coded import uncovered
from streamq.store.mongo import MongoStore

URI: Final = "STREAMQ_WORKER_URI"

WHERE = Group("Where the tasks are", sort_key=9)


@Parameter(name="*", group=WHERE)
@dataclass(frozen=True)
class Server:
    """Where the tasks are; None: as the environment or the app says."""

    uri: Annotated[
        str | None,
        Parameter(help="Connection string; default: $STREAMQ_URI, which others do not see in the list of processes."),
    ] = field(default=None, repr=False)
    database: Annotated[str | None, Parameter(help="Default: streamq, or the app's own.")] = None
    collection: Annotated[str | None, Parameter(help="Default: tasks, or the app's own.")] = None

    def arguments(self) -> list[str]:
        """Return the command line that says this, but for the connection string."""
        given = {"--database": self.database, "--collection": self.collection}
        return [part for name, value in given.items() if value is not None for part in (name, value)]

    def environment(self) -> dict[str, str]:
        """Return the environment that tells a worker process the connection string: it holds a password, and command
        lines are for all to see."""
        return {} if self.uri is None else {URI: self.uri}

    def told(self) -> Self:
        """Return the place with the connection string that the environment names, if it does. Programs that handlers
        start do not inherit it."""
        uri = os.environ.pop(URI, None)
        return self if uri is None or self.uri is not None else replace(self, uri=uri)

    def move(self, app: StreamQ, dead_letters: str | None = None, wake: WakeBy | None = None) -> None:
        """Let an app that was made elsewhere use this place, as far as it says one."""
        uri = self.uri
        if app.is_embedded and uri is None:
            uri = os.environ.get("STREAMQ_URI")
            if not uri:
                raise UsageError(
                    "the app uses StreamQ.embedded(), a server that ends with this command and that no other program "
                    "sees: give --uri or set STREAMQ_URI (`streamq dev` runs one), or make the app with StreamQ()"
                )
        app.point_at(
            uri, database=self.database, collection=self.collection, dead_letter_collection=dead_letters, wake=wake
        )


@Parameter(name="*", group=WHERE)
@dataclass(frozen=True)
class Place(Server):
    """A server and collections, or the app that says which."""

    app: Annotated[str | None, Parameter(help="MODULE:APP: where this app has its tasks, e.g. shop:app.")] = None


SERVER = Server()
HERE = Place()


@contextmanager
def placed(place: Place, dead_letters: str | None = None, wake: WakeBy | None = None) -> Iterator[StreamQ]:
    """Give the app that `place` names, else one without handlers, to be asked what needs no server."""
    app = StreamQ() if place.app is None else located(place.app)
    try:
        app.point_at(
            database=place.database, collection=place.collection, dead_letter_collection=dead_letters, wake=wake
        )
        yield app
    finally:
        app.close()


@contextmanager
def opened(place: Server, dead_letters: str | None = None, wake: WakeBy | None = None) -> Iterator[StreamQ]:
    """Give the app that `place` names, else one without handlers. Raises `UsageError` when neither says a server."""
    app = _named(place) or StreamQ()
    try:
        place.move(app, dead_letters, wake)
        store = uncovered(app.store)
        if not isinstance(store, MongoStore):
            raise UsageError("the app keeps its tasks in memory: no other program sees them")
        with patience(store.client):
            yield app
    finally:
        app.close()


def _named(place: Server) -> StreamQ | None:
    if isinstance(place, Place) and place.app is not None:
        return located(place.app)
    if place.uri or os.environ.get("STREAMQ_URI"):
        return None
    raise UsageError(
        "no server is named: give --uri, set STREAMQ_URI, or name an app by --app (to try things out, `streamq dev` "
        "runs a server)"
    )
