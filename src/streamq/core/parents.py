"""Parents: the tasks that another one runs after, and what their ends mean for it. Pure.

A task that waits holds the ids it awaits in `blocked_by`. Those of them of which one success is enough stand in
`blocked_by_any` too. An id is taken off when its task has succeeded (or ended, with `on_parent_failure="run"`); nothing
is awaited any more once `blocked_by` is empty. An id whose task ended otherwise stays in `blocked_by` and ends the
waiting task, unless another of `blocked_by_any` may still succeed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec
from bson import ObjectId

from streamq.core.document import SUCCEEDED
from streamq.errors import OptionInvalid

OnParentFailure = Literal["cancel", "run", "fail"]
MissingParent = Literal["error", "satisfied"]

GONE: Final = "gone"
"""Stands for the end of a parent that is not stored (any more)."""

Ends = Mapping[ObjectId, str]
"""How parents ended: a terminal status or `GONE`. Those that have not ended are not in it."""

MOST_PARENTS: Final = 10_000
"""Ids in one list: 180 kB of the 16 MB that a document may take."""


EXPECTED: Final = 'ids of tasks that are stored (or missing_parent="satisfied")'
"""What a put's parents must be."""


KEYED: Final = "no task of the same put that has a unique key: it may not be stored; name what its put returns"
"""Why a task of the same put cannot be a parent."""


class HasId(Protocol):
    """A handle, the reply of a put, or a task that is about to be put."""

    @property
    def id(self) -> ObjectId:
        """The task's id."""


Parent = ObjectId | HasId


class Awaited(msgspec.Struct, frozen=True):
    """What a task waits for: `all` of the ids, of which `any` are those where one success is enough (None: none is)."""

    all: list[ObjectId]
    any: list[ObjectId] | None = None

    @property
    def is_nothing(self) -> bool:
        """Say whether there is nothing to wait for."""
        return not self.all and self.any is None


class Family(msgspec.Struct, frozen=True):
    """What a put found out about the parents of its tasks: how they ended, and which tasks of the same put have
    children in it."""

    ends: Ends = {}
    parents: Collection[ObjectId] = ()


NO_FAMILY: Final = Family()


def require_parents(name: str, value: Iterable[Parent] | None) -> tuple[ObjectId, ...]:
    """Return the ids that `value` names, each once, or raise `OptionInvalid`."""
    expected = f"a list of at most {MOST_PARENTS:,} handles or ids (bson.ObjectId) of tasks, as in {name}=[task]"
    if not isinstance(value, list | tuple | set | frozenset) or len(value) > MOST_PARENTS:
        raise OptionInvalid(name, value, expected)
    ids = [one if isinstance(one, ObjectId) else getattr(one, "id", None) for one in value]
    if not all(isinstance(id, ObjectId) for id in ids):
        raise OptionInvalid(name, value, expected)
    return tuple(dict.fromkeys(id for id in ids if id is not None))


def awaited(after: Sequence[ObjectId], after_any: Sequence[ObjectId], policy: OnParentFailure, ends: Ends) -> Awaited:
    """Say what a task that is put now waits for.

    A parent that failed already is waited for like one that will: its end is seen once the task is stored.
    """
    passed = {id for id, end in ends.items() if end == SUCCEEDED or policy == "run"}
    rest = [id for id in after if id not in passed]
    # One that must succeed makes the choice by its success.
    chosen = not after_any or bool(passed.intersection(after_any)) or bool(set(after).intersection(after_any))
    return Awaited(rest) if chosen else Awaited([*rest, *after_any], list(after_any))


def told(ends: Ends) -> list[tuple[ObjectId, str]]:
    """Say of each parent that did not succeed, in words, what became of it."""
    words = {GONE: "is not stored any more"}
    return [
        (id, f"the task it was to run after, {id}, {words.get(end, end)}")
        for id, end in ends.items()
        if end != SUCCEEDED
    ]


NONE_LEFT: Final = "none of the tasks of which one had to succeed before it did"
PARENT_FAILED: Final = "ParentFailed"
"""Type and message of the error that a task gets by its parents' ends."""
