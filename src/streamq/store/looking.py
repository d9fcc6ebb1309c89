"""Looking at stored tasks, on the real server: nothing here changes one.

Lists go newest first, by `_id`: the pages of a list begin beyond the last id of the page before, so that what comes and
goes meanwhile neither repeats a task nor hides one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bson import DatetimeMS, ObjectId

from streamq.core import queries
from streamq.core.document import TaskDocument
from streamq.core.search import Search
from streamq.store.collections import Document, Tasks
from streamq.store.faults import reading

MOST_A_PAGE: Final = 500
"""Tasks in one page; the server ends it sooner when it reaches 16 MB, which bounds the memory of whoever reads on."""

NAMELESS: Final = "?"
"""Stands in counts for the queue of documents that name none. No queue can be called so."""


def find(tasks: Tasks, search: Search, limit: int, after: ObjectId | None) -> list[TaskDocument]:
    """See `Store.find`. Trips: 1 or more, by `limit`."""
    if limit <= 0:
        return []  # to the server 0 means without limit
    return _listed(tasks, search, limit, after)


def page(tasks: Tasks, search: Search, after: ObjectId | None) -> list[TaskDocument]:
    """See `Store.page`. Trips: 1."""
    return _listed(tasks, search, -MOST_A_PAGE, after)  # negative: one answer of the server and no more


def _listed(tasks: Tasks, search: Search, limit: int, after: ObjectId | None) -> list[TaskDocument]:
    with reading("list tasks"), tasks.deadline():
        found = tasks.quick.find(queries.beyond(search.filter(), after, "$lt")).sort("_id", -1).limit(limit)
        return [as_task(document) for document in found]


def ids(tasks: Tasks, search: Search, limit: int, after: ObjectId | None) -> list[ObjectId]:
    """See `Store.ids`. Trips: 1."""
    with reading("list tasks"), tasks.deadline():
        wanted = queries.beyond(search.filter(), after, "$gt")
        return [document["_id"] for document in tasks.quick.find(wanted, {"_id": 1}).sort("_id", 1).limit(limit)]


def peek(tasks: Tasks, queue: str, limit: int, *, tail: bool) -> list[TaskDocument]:
    """See `Store.peek`. Trips: 1; as many index keys as tasks."""
    order = [(field, -way) for field, way in queries.CLAIM_ORDER] if tail else queries.CLAIM_ORDER
    with reading("peek at a queue"), tasks.deadline():
        found = [as_task(document) for document in tasks.quick.find(queries.waiting(queue)).sort(order).limit(limit)]
    return found[::-1] if tail else found


def counts(tasks: Tasks) -> Mapping[str, Mapping[str, int]]:
    """See `Store.counts`. Trips: 1; reads every task."""
    counted: dict[str, dict[str, int]] = {}
    with reading("count tasks"), tasks.deadline():
        for row in tasks.quick.aggregate(queries.counts()):
            queue, status = _name(row["_id"].get("queue")), str(row["_id"]["status"])
            of_queue = counted.setdefault(queue, {})
            of_queue[status] = of_queue.get(status, 0) + row["count"]
    return queries.in_order(counted)


def counts_by_handler(tasks: Tasks) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
    """See `Store.counts_by_handler`. Trips: 1; reads every task."""
    counted: dict[str, dict[str, dict[str, int]]] = {}
    with reading("count tasks"), tasks.deadline():
        for row in tasks.quick.aggregate(queries.counts("task")):
            queue, status = _name(row["_id"].get("queue")), str(row["_id"]["status"])
            task = row["_id"].get("task")
            of_handler = counted.setdefault(queue, {}).setdefault("" if task is None else _name(task), {})
            of_handler[status] = of_handler.get(status, 0) + row["count"]
    return {queue: queries.in_order(counted[queue]) for queue in sorted(counted)}


def _name(stored: object) -> str:
    return stored if type(stored) is str else NAMELESS  # a BSON Code is a str too, and no key of a dict


def as_task(document: Document) -> TaskDocument:
    """Read a stored task. An instant that no `datetime` can hold is none."""
    return {name: value for name, value in document.items() if not isinstance(value, DatetimeMS)}  # type: ignore[return-value]
