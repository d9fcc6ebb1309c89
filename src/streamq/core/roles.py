"""Roles: the least that each kind of program must be allowed to do, as exact privileges on the collections it uses.

MongoDB grants actions on whole collections, so a role says what may be done, not to which task: whoever may `update`
the tasks could write any field of any of them. What the roles do keep apart:

    producer    stores tasks. Cannot read one, not even its own, nor claim, nor learn a result
    client      besides: waits for results, depends on other tasks, replaces, holds keys for a time. Cannot delete
    worker      besides: runs tasks, and keeps the queue (delays, leases, schedules, limits, dead letters)
    operator    puts right (cancel, requeue, purge, pause), and makes collections and indexes
    reader      looks, and changes nothing

None has a privilege beyond the database of its tasks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import msgspec

from streamq.core import features
from streamq.core.notice import SUFFIX, WakeBy
from streamq.errors import OptionInvalid

RoleKind = Literal["producer", "client", "worker", "operator", "reader"]

KINDS: Final[tuple[RoleKind, ...]] = get_args(RoleKind)

META: Final = ".meta"
"""What is behind the name of a tasks collection in that of the collection beside it."""

Actions = tuple[str, ...]

MAKING: Final = ("createIndex", "listIndexes")
"""Making an index makes its collection, and so does an insert; a capped one is made by itself."""

TASKS: Final[Mapping[RoleKind, Actions]] = {
    "producer": ("insert",),
    # `update`: names itself on the task whose end it waits for, marks parents, replaces; has a row among the members
    "client": ("changeStream", "find", "insert", "update"),
    "worker": ("changeStream", "find", "insert", "listIndexes", "remove", "update"),
    "operator": ("find", "insert", "remove", "update", *MAKING),
    "reader": ("find",),
}

BESIDE: Final[Mapping[RoleKind, Actions]] = {
    "producer": (),
    "client": ("find", "insert", "update"),  # unique keys that outlive their tasks
    "worker": ("find", "insert", "listIndexes", "update"),  # schedules, tokens of rates
    "operator": ("find", "insert", "remove", "update", *MAKING),
    "reader": ("find",),
}

IN_USE: Final[Mapping[RoleKind, Actions]] = {
    "producer": ("insert",),
    "client": ("insert",),
    "worker": ("find", "insert"),
    "operator": ("find", "insert"),
    "reader": ("find",),
}
"""Which features tasks take part in: see `features`."""

DEAD_LETTERS: Final[Mapping[RoleKind, Actions]] = {
    "producer": (),
    "client": ("find",),  # a result or a parent may be there
    "worker": ("find", "insert", "listIndexes", "update"),
    "operator": ("find", "remove", "update", *MAKING),
    "reader": ("find",),
}

WAKES: Final[Mapping[RoleKind, Actions]] = {
    "producer": ("insert",),
    "client": ("insert",),
    "worker": ("find", "insert"),
    "operator": ("convertToCapped", "createCollection", "find", "insert"),
    "reader": (),
}
"""The extra wake channel. Who writes it must know its UUID, which `listCollections` tells."""


class Privilege(msgspec.Struct, frozen=True):
    """What may be done to one collection; to the database itself where `collection` is empty."""

    collection: str
    actions: Actions


class Role(msgspec.Struct, frozen=True):
    """A role of one database, as `createRole` takes it."""

    name: str
    database: str
    privileges: tuple[Privilege, ...]

    def command(self) -> dict[str, Any]:
        """Return the command that makes it: `client[role.database].command(role.command())`."""
        return {"createRole": self.name, "privileges": self._privileges(), "roles": []}

    def mongosh(self) -> str:
        """Return what is pasted into mongosh, by a user who may make roles."""
        privileges = ",\n".join(f"    {json.dumps(one)}" for one in self._privileges())
        return (
            f"db.getSiblingDB({json.dumps(self.database)}).createRole({{\n"
            f"  role: {json.dumps(self.name)},\n  privileges: [\n{privileges}\n  ],\n  roles: []\n}})"
        )

    def _privileges(self) -> list[dict[str, Any]]:
        return [
            {"resource": {"db": self.database, "collection": one.collection}, "actions": list(one.actions)}
            for one in self.privileges
        ]


def role_of(
    kind: RoleKind,
    *,
    database: str = "streamq",
    collection: str = "tasks",
    dead_letter_collection: str | None = None,
    wake: WakeBy = "stream",
) -> Role:
    """Return the role that a program of this kind needs; the arguments are those of its app. Raises `OptionInvalid`."""
    if kind not in KINDS:
        raise OptionInvalid("role", kind, f"one of {', '.join(KINDS)}")
    granted = [
        (collection, TASKS[kind]),
        (collection + META, BESIDE[kind]),
        (collection + features.SUFFIX, IN_USE[kind]),
    ]
    if dead_letter_collection is not None:
        granted.append((dead_letter_collection, DEAD_LETTERS[kind]))
    if wake == "tailable":
        granted.append((collection + SUFFIX, WAKES[kind]))
    if kind == "operator" or (wake == "tailable" and WAKES[kind]):
        granted.append(("", ("listCollections",)))
    privileges = tuple(Privilege(name, tuple(sorted(actions))) for name, actions in granted if actions)
    return Role(f"streamq_{collection}_{kind}", database, privileges)
