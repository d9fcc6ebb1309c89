"""What all moves that no holder makes share: a statement for many, and what to do when one of them is refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from bson import ObjectId
from pymongo.errors import WriteError

from streamq.store.collections import Document, Tasks
from streamq.store.contract import Refused
from streamq.store.faults import is_refusal, short

IN_THE_WAY: Final = ""
"""Stands among what was refused for the words of the server, where something is in the way for a moment only: another
transaction writes the same task. It is tried again, and there is nothing to tell people."""


def move(
    tasks: Tasks, guard: dict[str, Any], update: list[dict[str, Any]], ids: list[Any], refused: list[Refused]
) -> int:
    """Move those of `ids` that still match; return how many did. One that the server refuses ends a statement before
    the rest of it: the halves are tried, until that one is alone and is put among `refused`."""
    try:
        return tasks.durable.update_many(guard | {"_id": {"$in": ids}}, update).modified_count
    except WriteError as error:
        if not is_refusal(error):
            raise
        if len(ids) == 1:
            refused.append(Refused(ids[0], short(error)))
            return 0
    middle = len(ids) // 2
    return sum(move(tasks, guard, update, half, refused) for half in (ids[:middle], ids[middle:]))


def named(documents: Iterable[Document], refused: list[Refused]) -> list[tuple[ObjectId, str]]:
    """Say what came back, and to which queue. Without a queue's name there is nobody to wake."""
    stuck = [one.id for one in refused]
    return [
        (document["_id"], document["queue"])
        for document in documents
        if isinstance(document.get("queue"), str)
        and not isinstance(document["_id"], dict)
        and document["_id"] not in stuck
    ]


def lasting(refused: Iterable[Refused]) -> tuple[Refused, ...]:
    """Return what people are to be told of."""
    return tuple(one for one in refused if one.said != IN_THE_WAY)
