"""What people do to stored tasks, on the real server: delete one, purge what has ended, requeue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bson import ObjectId
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, WriteError

from streamq.core import queries
from streamq.core.document import RUNNING, TERMINAL
from streamq.core.moves import free, hold_key
from streamq.core.moves import requeue as move
from streamq.core.moves.requeue import Requeue
from streamq.core.requeued import Requeued, Requeueing, verdict_of
from streamq.core.search import Search
from streamq.core.unique_key import UniqueKey, lock_again
from streamq.errors import OptionInvalid, OutcomeUnknown, PayloadUndecodable
from streamq.store import following
from streamq.store.collections import Document, Tasks
from streamq.store.contract import Deleted, Purged
from streamq.store.faults import DUPLICATE_KEY, MAYBE_APPLIED, PASSING, SHOWN, is_refusal, reading, short, writing

MOST_A_PURGE: Final = 1_000
"""Tasks deleted by one statement: many enough to be quick, few enough to let other writes through."""

TOLD: Final = {"status": 1, "requeue_id": 1, "queue": 1, "unique_key": 1, "unique_for_s": 1}


def delete(tasks: Tasks, id: ObjectId, *, force: bool, living: Tasks | None = None) -> Deleted:
    """See `Store.delete`. Who waits for it is among the `living`, if these are others.

    Trips: 1, or 2 when it was not deleted; 1 more with `force`; 1 or 2 more when others wait for it, or more when they
    have yet to learn how it ended."""
    living = tasks if living is None else living
    stored = {"_id": id, "status": {"$exists": True}}
    wanted = queries.SEEN_TO | (stored if force else {"_id": id, "status": {"$exists": True, "$ne": RUNNING}})
    with writing("delete a task"), tasks.deadline():
        if force:
            tasks.durable.update_one({"_id": id} | free.HAS_SLOT, free.update())
        while (deleted := tasks.durable.find_one_and_delete(wanted, following.REMOVED)) is None:
            found = tasks.quick.find_one(stored, {"status": 1, "follow_up": 1})
            if found is None:
                return "gone"
            if found["status"] == RUNNING and not force:
                return "running"
            if found["status"] in TERMINAL and "follow_up" in found and following.tell(living, found):
                wanted = stored | {"status": found["status"]}
            # Else it ran at the first look and has left that status since.
        following.mark_followers(living, [deleted])
    return "deleted"


def free_key(tasks: Tasks, queue: str, key: UniqueKey) -> bool:
    """See `Store.free_key`. Trips: 1."""
    with writing("free a unique key"), tasks.deadline():
        return tasks.meta.delete_one(hold_key.held(queue, key)).deleted_count == 1


def purge(tasks: Tasks, search: Search, older_than_s: float, after: ObjectId | None) -> Purged:
    """See `Store.purge`. Trips: 2."""
    wanted = {"$and": [search.filter(), queries.ended_before(older_than_s), queries.UNMARKED]}
    with reading("look for tasks to purge"), tasks.deadline():
        found = tasks.quick.find(queries.beyond(wanted, after, "$gt"), {"_id": 1}).sort("_id", 1).limit(MOST_A_PURGE)
        ids = [document["_id"] for document in found]
    if not ids:
        return Purged(0, None)
    with writing("purge tasks"), tasks.deadline():
        # The filter again: one that was requeued since it was found is no longer to be deleted.
        deleted = tasks.durable.delete_many({"$and": [{"_id": {"$in": ids}}, wanted]}).deleted_count
    return Purged(deleted, ids[-1] if len(ids) == MOST_A_PURGE else None)


def requeue(tasks: Tasks, ids: Sequence[ObjectId], how: Requeue) -> list[Requeued]:
    """See `Store.requeue`. Trips: 1, or 2 when not all were requeued; 2 more when some have unique keys, and more when
    the server refuses some."""
    refused: dict[ObjectId, Requeued] = {}
    with writing("requeue tasks"), tasks.deadline():
        if _requeue(tasks, list(ids), how, refused) == len(ids):
            return [Requeued(id, "requeued") for id in ids]
        stored = _look(tasks, ids)
        keyed = [one for one in stored.values() if "unique_key" in one and one["status"] in TERMINAL]
        if keyed:
            _requeue_keyed(tasks, keyed, how, refused)
            stored = _look(tasks, ids)
    return [refused.get(id) or verdict_of(id, stored.get(id), how) for id in ids]


def _look(tasks: Tasks, ids: Sequence[ObjectId]) -> dict[ObjectId, Document]:
    return {document["_id"]: document for document in tasks.durable.find({"_id": {"$in": list(ids)}}, TOLD)}


def _requeue(tasks: Tasks, ids: list[ObjectId], how: Requeue, refused: dict[ObjectId, Requeued]) -> int:
    """Requeue those without a unique key that still have ended; return how many. One that is refused ends a statement
    before the rest of it: the halves are tried, until that one is alone."""
    if not ids:
        return 0
    try:
        return tasks.durable.update_many(move.plain() | {"_id": {"$in": ids}}, move.update(how)).modified_count
    except WriteError as error:
        if not is_refusal(error):
            raise
        if len(ids) == 1:
            refused[ids[0]] = Requeued(ids[0], "refused", short(error))
            return 0
    middle = len(ids) // 2
    return sum(_requeue(tasks, half, how, refused) for half in (ids[:middle], ids[middle:]))


def _requeue_keyed(
    tasks: Tasks, documents: Sequence[Document], how: Requeue, refused: dict[ObjectId, Requeued]
) -> None:
    """Requeue tasks that take their unique key again, each by a statement of its own: the key is another for each, and
    one whose twin is there is turned away alone."""
    locks: dict[ObjectId, bytes | None] = {}
    for document in documents:
        try:
            locks[document["_id"]] = lock_again(document)
        except (PayloadUndecodable, OptionInvalid) as error:
            refused[document["_id"]] = Requeued(document["_id"], "refused", str(error))
    ids = list(locks)
    statements = [UpdateOne(move.guard() | {"_id": id}, move.update(how, lock)) for id, lock in locks.items()]
    try:
        if statements:
            tasks.durable.bulk_write(statements, ordered=False)
    except BulkWriteError as error:
        details = error.details or {}
        for one in details.get("writeErrors", ()):
            if one["code"] in MAYBE_APPLIED | PASSING:
                raise OutcomeUnknown(f"requeue tasks: some may not have been requeued: {short(error)}") from error
            verdict: Requeueing = "conflict" if one["code"] == DUPLICATE_KEY else "refused"
            refused[ids[one["index"]]] = Requeued(ids[one["index"]], verdict, str(one.get("errmsg"))[:SHOWN])
        if details.get("writeConcernErrors"):
            raise OutcomeUnknown(f"requeue tasks: no majority has answered: {short(error)}") from error
