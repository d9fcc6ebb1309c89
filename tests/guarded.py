"""A server with access control: key file, SCRAM-SHA-256, and users who have one of streamq's roles only."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pymongo import MongoClient

from streamq import embedded
from streamq.core.roles import Role
from streamq.embedded.keyfile import login_by
from tests.canary import PASSWORD


class Guarded:
    """The server, and who makes its users."""

    def __init__(self, server: embedded.EmbeddedServer, root: MongoClient[dict[str, Any]]) -> None:
        self.server = server
        self.root = root

    def user(self, name: str, password: str, roles: list[Any], database: str = "admin") -> str:
        """Make a user; return the connection string that holds its password."""
        self.root[database].command(
            "createUser", name, pwd=password, roles=roles, mechanisms=["SCRAM-SHA-256"], writeConcern={"w": 1}
        )
        login = f"{quote(name, '')}:{quote(password, '')}@"
        return f"{self.server.uri.replace('://', '://' + login)}&authSource={database}&authMechanism=SCRAM-SHA-256"

    def user_with(self, *roles: Role) -> str:
        """Make a user who has these roles of one database and nothing else."""
        database = roles[0].database
        for role in roles:
            self.root[database].command({**role.command(), "writeConcern": {"w": 1}})
        return self.user("u" + secrets.token_hex(4), PASSWORD, [one.name for one in roles], database)

    def forget(self, database: str) -> None:
        """Remove the database with its users and roles."""
        for command in ("dropAllUsersFromDatabase", "dropAllRolesFromDatabase", "dropDatabase"):
            self.root[database].command(command, writeConcern={"w": 1})


@contextmanager
def guarded(directory: Path, *extra_args: str) -> Iterator[Guarded]:
    """Run a server to which nobody has access who has not logged in."""
    key = directory / "key"
    key.write_text(secrets.token_urlsafe(60).replace("-", "+").replace("_", "/"))
    key.chmod(0o600)
    parameters = {"enableTestCommands": 1, "ttlMonitorEnabled": False}
    with (
        embedded.start(key_file=key, parameters=parameters, extra_args=extra_args) as server,
        MongoClient[dict[str, Any]](server.uri, tz_aware=True, **login_by(key)) as root,
    ):
        yield Guarded(server, root)
