"""Where the tasks of an app are: the server, the database and the collections."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from streamq.core import features, notice
from streamq.core.notice import WakeBy
from streamq.core.options import require_collection, require_database
from streamq.core.roles import META, Role, RoleKind, role_of
from streamq.errors import UsageError
from streamq.secret import secret
from streamq.store.mongo import MongoStore
from streamq.store.transactions import Client

if TYPE_CHECKING:
    from streamq.embedded import EmbeddedServer


class Address:
    """Of one app. `server` is set when that is one of the app's own, which ends with the program."""

    def __init__(
        self,
        uri: str | None,
        client: Client | None,
        database: str,
        collection: str,
        dead_letters: str | None,
        timeout_s: float,
        wake: WakeBy = "stream",
    ) -> None:
        self.server: EmbeddedServer | None = None
        self._uri = secret(uri)
        self._client = client
        self._database = require_database(database)
        self._collection = require_collection("collection", collection)
        self._dead_letters = dead_letters
        self._timeout_s = timeout_s
        self._wake: WakeBy = wake
        self._dead_letter_collection()

    def __eq__(self, other: object) -> bool:
        """Say whether tasks that are put here are found there. Two ways to name a server may name the same, so only two
        clients are told apart."""
        if not isinstance(other, Address):
            return NotImplemented
        here, there = (self._database, self._collection), (other._database, other._collection)
        clients = {id(one._client) for one in (self, other) if one._client is not None}
        return here == there and len(clients) < 2

    __hash__ = None  # type: ignore[assignment] # it may be pointed elsewhere

    def __str__(self) -> str:
        return f"database={self._database!r} collection={self._collection!r}"  # never the URI: it has secrets

    @property
    def dead_letters(self) -> str | None:
        """The collection of the dead letters, if there is one."""
        return self._dead_letters

    def point_at(
        self,
        uri: str | None,
        database: str | None,
        collection: str | None,
        dead_letters: str | None = None,
        wake: WakeBy | None = None,
    ) -> None:
        """Be elsewhere; None leaves it as it is. Raises `OptionInvalid`."""
        self._database = self._database if database is None else require_database(database)
        self._collection = self._collection if collection is None else require_collection("collection", collection)
        # Whoever names the app's dead letters as the tasks wants to look at them; they have none of their own.
        self._dead_letters = dead_letters or (None if collection == self._dead_letters else self._dead_letters)
        self._wake = wake or self._wake
        self._dead_letter_collection()
        if uri is not None:
            self._uri, self._client = secret(uri), None
            self.stop()

    def connect(self) -> MongoStore:
        """Make the store. Nothing is sent yet. Raises `UsageError` when it is not said where the server is."""
        dead_letters = self._dead_letter_collection()
        if self._client is not None:
            return MongoStore(
                self._client,
                self._database,
                self._collection,
                timeout_s=self._timeout_s,
                dead_letters=dead_letters,
                wake=self._wake,
            )
        uri = self._uri or secret(os.environ.get("STREAMQ_URI"))
        if not uri:
            raise UsageError(
                "where is the server? Give StreamQ(uri) or StreamQ(client=...), set STREAMQ_URI, "
                "or use StreamQ.embedded() for a mongod of its own (`streamq dev` runs one for several programs)"
            )
        return MongoStore.connect(
            uri,
            self._database,
            self._collection,
            timeout_s=self._timeout_s,
            dead_letters=dead_letters,
            wake=self._wake,
        )

    def role(self, kind: RoleKind) -> Role:
        """Return the role of a program that uses this place. Raises `OptionInvalid`."""
        return role_of(
            kind,
            database=self._database,
            collection=self._collection,
            dead_letter_collection=self._dead_letter_collection(),
            wake=self._wake,
        )

    def _dead_letter_collection(self) -> str | None:
        if self._dead_letters is None:
            return None
        taken = [self._collection + suffix for suffix in ("", META, features.SUFFIX, notice.SUFFIX)]
        return require_collection("dead_letter_collection", self._dead_letters, *taken)

    def stop(self) -> None:
        """Stop the app's own server, if it has one. Blocking."""
        server, self.server = self.server, None
        if server is not None:
            server.stop()
