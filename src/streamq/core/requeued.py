"""What became of tasks that a person wanted requeued."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal

import msgspec
from bson import ObjectId

from streamq.core.moves.requeue import Requeue
from streamq.core.options import require_delay_s, require_task_id
from streamq.errors import OptionInvalid

MOST_AT_ONCE: Final = 500
"""Tasks requeued by one statement: many enough to be quick, few enough to let other writes through."""

NOTES_KEPT: Final = 1_000
"""How many of those that were not requeued a report by filter names. Chosen freely: more than a person reads."""

Requeueing = Literal["requeued", "not terminal", "gone", "conflict", "refused"]


class Requeued(msgspec.Struct, frozen=True):
    """One task.

    `verdict`: "requeued"; "not terminal": it waits or runs already (somebody else may have requeued it); "gone": it is
    not stored; "conflict": another task that has not ended has its unique key; "refused": the server does not take the
    change, with its words in `said`.
    """

    id: ObjectId
    verdict: Requeueing
    said: str = ""


class RequeueReport(msgspec.Struct, frozen=True):
    """What became of all tasks that a filter found: how many were requeued, and what was not (the first thousand)."""

    requeued: int = 0
    others: tuple[Requeued, ...] = ()

    def with_items(self, items: Iterable[Requeued]) -> RequeueReport:
        """Return the report with `items` added."""
        given = list(items)
        others = [one for one in given if one.verdict != "requeued"]
        return RequeueReport(self.requeued + len(given) - len(others), (*self.others, *others)[:NOTES_KEPT])


def how_of(id: ObjectId, delay_s: object, reset_attempts: object) -> Requeue:
    """Check how tasks are to be requeued. Raises `OptionInvalid`."""
    if not isinstance(reset_attempts, bool):
        raise OptionInvalid("reset_attempts", reset_attempts, "True or False")
    return Requeue(id, require_delay_s(delay_s), reset_attempts)


def ids_of(given: object) -> list[ObjectId]:
    """Check the ids of tasks, one or several; each once, in the order given. Raises `OptionInvalid`."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        return [require_task_id(given, "ids")]
    return list(dict.fromkeys(require_task_id(one, "ids") for one in given))


def chunks(ids: list[ObjectId]) -> Iterator[list[ObjectId]]:
    """Part `ids` into what is requeued at once."""
    return (ids[start : start + MOST_AT_ONCE] for start in range(0, len(ids), MOST_AT_ONCE))


def verdict_of(id: ObjectId, document: Any, how: Requeue) -> Requeued:
    """Say what became of a task by what is stored of it now."""
    if document is None:
        return Requeued(id, "gone")
    return Requeued(id, "requeued" if document.get("requeue_id") == how.id else "not terminal")
