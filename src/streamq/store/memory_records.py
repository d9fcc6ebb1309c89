"""`contract.Records` on the documents of the store in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from bson import ObjectId

from streamq.core import queries
from streamq.core.document import READY, RUNNING, TERMINAL, TaskDocument
from streamq.core.moves import requeue as move
from streamq.core.moves.fence import after as later
from streamq.core.moves.requeue import Requeue
from streamq.core.requeued import Requeued
from streamq.core.search import Search
from streamq.core.unique_key import lock_again
from streamq.store.contract import Deleted, Purged

MOST_A_PAGE: Final = 500
MOST_A_PURGE: Final = 1_000

Documents = dict[ObjectId, TaskDocument]


def find(documents: Documents, search: Search, limit: int, after: ObjectId | None) -> list[TaskDocument]:
    """See `Records.find`."""
    newest = sorted(documents.values(), key=lambda one: one["_id"], reverse=True)
    found = [one for one in newest if (after is None or one["_id"] < after) and search.matches(one)]
    return copy.deepcopy(found[: max(limit, 0)])


def ids(documents: Documents, search: Search, limit: int, after: ObjectId | None) -> list[ObjectId]:
    """See `Records.ids`."""
    return [id for id in sorted(documents) if (after is None or id > after) and search.matches(documents[id])][:limit]


def peek(documents: Documents, queue: str, limit: int, *, tail: bool) -> list[TaskDocument]:
    """See `Records.peek`."""
    waiting = [one for one in documents.values() if one["status"] == READY and one["queue"] == queue]
    waiting.sort(key=lambda one: (-one["priority"], one["seq"]))
    return copy.deepcopy(waiting[-limit:] if tail else waiting[:limit])


def counts(documents: Iterable[TaskDocument]) -> Mapping[str, Mapping[str, int]]:
    """See `Records.counts`."""
    counted: dict[str, dict[str, int]] = {}
    for document in documents:
        of_queue = counted.setdefault(document["queue"], {})
        of_queue[document["status"]] = of_queue.get(document["status"], 0) + 1
    return queries.in_order(counted)


def counts_by_handler(documents: Iterable[TaskDocument]) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
    """See `Records.counts_by_handler`."""
    counted: dict[str, dict[str, dict[str, int]]] = {}
    for document in documents:
        of_handler = counted.setdefault(document["queue"], {}).setdefault(document["task"] or "", {})
        of_handler[document["status"]] = of_handler.get(document["status"], 0) + 1
    return {queue: queries.in_order(counted[queue]) for queue in sorted(counted)}


def delete(documents: Documents, id: ObjectId, *, force: bool) -> Deleted:
    """See `Records.delete`."""
    document = documents.get(id)
    if document is None:
        return "gone"
    if document["status"] == RUNNING and not force:
        return "running"
    del documents[id]
    return "deleted"


def purge(documents: Documents, search: Search, older_than_s: float, after: ObjectId | None, now: datetime) -> Purged:
    """See `Records.purge`."""
    found = [
        id
        for id in ids(documents, search, len(documents), after)
        if "follow_up" not in documents[id]
        and (older_than_s <= 0 or later(documents[id]["finished_at"], older_than_s) <= now)
    ]
    for id in found[:MOST_A_PURGE]:
        del documents[id]
    return Purged(len(found[:MOST_A_PURGE]), found[MOST_A_PURGE - 1] if len(found) >= MOST_A_PURGE else None)


def requeue(documents: Documents, ids: Sequence[ObjectId], how: Requeue, now: datetime) -> list[Requeued]:
    """See `Records.requeue`."""
    return [_requeue(documents, id, how, now) for id in ids]


def _requeue(documents: Documents, id: ObjectId, how: Requeue, now: datetime) -> Requeued:
    document = documents.get(id)
    if document is None:
        return Requeued(id, "gone")
    if document["status"] not in TERMINAL:
        return Requeued(id, "requeued" if document.get("requeue_id") == how.id else "not terminal")
    lock = lock_again(document)
    twins = (one for one in documents.values() if one["queue"] == document["queue"])
    if lock is not None and any(one.get("unique_lock") == lock for one in twins):
        return Requeued(id, "conflict")
    move.apply(document, how, now)
    return Requeued(id, "requeued")
