"""What all moves that no holder makes share: a statement for many, and what to do when one of them is refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from bson import ObjectId
from pymongo.collection import Collection
from pymongo.errors import WriteError

from streamq.store.collections import Document
from streamq.store.contract import Refused
from streamq.store.faults import is_refusal, short

MOST_A_TICK: Final = 1_000
"""Tasks moved in one step: many enough to keep up with a flood, few enough to let other writes through."""

STUCK_S: Final = 1.0
"""The pause when all that is due was refused: it stays due, and without a pause it would be tried without end."""

BUSY_S: Final = 0.1
"""The pause when somebody else's transaction has what is due: by the next look it is mostly done. That of a process
which died in it is ended by the server within a minute."""

IN_THE_WAY: Final = ""
"""Stands among what was refused for the words of the server, where something is in the way for a moment only: another
transaction writes the same task. It is tried again, and there is nothing to tell people."""


def move(
    into: Collection[Document],
    guard: dict[str, Any],
    update: list[dict[str, Any]],
    ids: list[Any],
    refused: list[Refused],
) -> int:
    """Move those of `ids` that still match; return how many did. One that the server refuses ends a statement before
    the rest of it: the halves are tried, until that one is alone and is put among `refused`."""
    try:
        return into.update_many(guard | {"_id": {"$in": ids}}, update).modified_count
    except WriteError as error:
        if not is_refusal(error):
            raise
        if len(ids) == 1:
            refused.append(Refused(ids[0], short(error)))
            return 0
    middle = len(ids) // 2
    return sum(move(into, guard, update, half, refused) for half in (ids[:middle], ids[middle:]))


def named(documents: Iterable[Document], refused: list[Refused]) -> list[tuple[ObjectId, str]]:
    """Say what came back, and to which queue."""
    stuck = [one.id for one in refused]
    return [
        (document["_id"], document["queue"])
        for document in documents
        if wakes_somebody(document) and document["_id"] not in stuck
    ]


def wakes_somebody(document: Document) -> bool:
    """Say whether a task can be told of: without a queue's name there is nobody to wake."""
    return type(document.get("queue")) is str and not isinstance(document["_id"], dict)


def lasting(refused: Iterable[Refused]) -> tuple[Refused, ...]:
    """Return what people are to be told of."""
    return tuple(one for one in refused if one.said != IN_THE_WAY)


def pause_s(refused: Iterable[Refused], *, moved: bool) -> float:
    """Say how long a look that was refused all it tried, or did nothing, has to wait before the next."""
    if moved or not refused:
        return 0.0
    return STUCK_S if lasting(refused) else BUSY_S
