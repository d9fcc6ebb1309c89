"""How tests reach the session's server: as an application, and as who may do everything.

Without access control the two are one. With it (`--auth`) an application is a user of no right but those of streamq's
roles, on the databases that were opened to it, and on the collections of its own beside the tasks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pymongo import MongoClient

from streamq.core.checkup import Checkup, Finding
from streamq.core.roles import Privilege, Role, RoleKind, role_of
from streamq.embedded import EmbeddedServer
from streamq.secret import Secret
from tests.canary import PASSWORD
from tests.databases import drop_collections
from tests.guarded import Guarded

KINDS: Final[tuple[RoleKind, ...]] = ("client", "worker", "operator")
"""What the programs of the tests are, most of them all at once."""

APPS: Final[tuple[dict[str, Any], ...]] = (
    *({"dead_letter_collection": name, "wake": "tailable"} for name in ("dead", "dead_letters", "letters")),
    {"collection": "jobs", "dead_letter_collection": "dead"},
)
"""Options of the apps that are made in tests, as far as a role depends on them."""

OWN: Final = ("orders", "paid", "done", "ledger")
"""Collections that applications write beside their tasks, also in transactions with them."""

ROLE: Final = "streamq_tests"


class Access:
    """The session's server with nothing to log in for."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self.uri = self.admin_uri = server.uri

    def login(self, uri: str) -> str:
        """Put an application's login into another address of the server."""
        return uri

    def admin_login(self, uri: str) -> str:
        """Put the login of who may do everything into another address of the server."""
        return uri

    def open(self, database: str) -> None:
        """Let applications use a database."""

    def shut(self, database: str) -> None:
        """Take that back."""

    @contextmanager
    def opened(self, *databases: str) -> Iterator[None]:
        """Let applications use these databases meanwhile."""
        for one in databases:
            self.open(one)
        try:
            yield
        finally:
            for one in databases:
                self.shut(one)

    @contextmanager
    def lend(self, database: str) -> Iterator[str]:
        """Yield the name of a database that applications may use; it is dropped at the end."""
        with self.opened(database):
            yield database
            with MongoClient[dict[str, Any]](self.admin_uri) as client:
                drop_collections(client, database)


class GuardedAccess(Access):
    """The same with users who log in by SCRAM-SHA-256."""

    def __init__(self, guard: Guarded, kinds: Sequence[RoleKind] = KINDS) -> None:
        super().__init__(guard.server)
        self._root = guard.root
        self._kinds = kinds
        # Fail points, sessions of others, members of the set: no role of the server's own has them all.
        self.admin_uri = Secret(guard.user("admin", PASSWORD, ["__system"]))
        self.uri = Secret(guard.user("application", PASSWORD, []))

    def login(self, uri: str) -> str:
        return Secret(_with_login_of(self.uri, uri))

    def admin_login(self, uri: str) -> str:
        return Secret(_with_login_of(self.admin_uri, uri))

    def open(self, database: str) -> None:
        command = {**united(database, self._kinds).command(), "writeConcern": {"w": 1}}
        self._root[database].command(command)
        roles = [{"role": ROLE, "db": database}]
        self._root.admin.command("grantRolesToUser", "application", roles=roles, writeConcern={"w": 1})

    def shut(self, database: str) -> None:
        self._root[database].command("dropRole", ROLE, writeConcern={"w": 1})


def allowed(checkup: Checkup) -> list[Finding]:
    """Return what a check has found, but for what no role of streamq's may ask."""
    return [one for one in checkup.findings if "oplog.rs" not in one.said]


def united(database: str, kinds: Sequence[RoleKind]) -> Role:
    """Return what programs of these kinds may do in a database, with the options of `APPS`, and nothing else."""
    actions: defaultdict[str, set[str]] = defaultdict(set)
    for kind in kinds:
        for options in APPS:
            for one in role_of(kind, database=database, **options).privileges:
                actions[one.collection].update(one.actions)
    for name in OWN:
        actions[name].update(("find", "insert", "update", "remove"))
    return Role(ROLE, database, tuple(Privilege(name, tuple(sorted(those))) for name, those in actions.items()))


def _with_login_of(one: str, other: str) -> str:
    """Return `other` with the login of `one`."""
    login = one.partition("://")[2].rpartition("@")[0]
    options = one.partition("&authSource")
    return f"{other.replace('://', f'://{login}@')}{'&' if '?' in other else '/?'}authSource{options[2]}"
