"""Dead letters in a collection of their own: failed tasks move there, and back when they are requeued.

There is no mark and no step that could be forgotten: what is to be moved is whatever is `failed` in the tasks
collection. The store looks for it right after it has failed a task, and at every look of the scheduler, so a process
that dies in between leaves the move to the next one.

    fail (any move) ──→ failed, in the tasks collection ──→ one transaction: copied there, deleted here
                            └─ requeued meanwhile: the transaction meets a write conflict, and nothing of it happens

So at every moment a task is in one of the two collections, as a whole. What follows the end of a task (its children) is
seen to while it is still here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import pymongo
from bson import ObjectId
from pymongo import ReplaceOne
from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError, PyMongoError

from streamq.core import queries
from streamq.core.document import TERMINAL, TaskDocument
from streamq.core.moves import requeue as move
from streamq.core.moves.put import whole_ms
from streamq.core.moves.requeue import Requeue
from streamq.core.requeued import Requeued
from streamq.core.settlement import Settlement, Verdict
from streamq.errors import OptionInvalid, OutcomeUnknown, PayloadUndecodable
from streamq.store.collections import Document, Tasks
from streamq.store.faults import reading, short, writing

MOST_AT_ONCE: Final = 100
"""Tasks in one transaction: a hundred of a megabyte each stay far below what one may hold."""

MOST_CHUNKS: Final = 10
"""How much one look moves, so that a thousand old failures hold up no scheduler."""

MOST_TRIES: Final = 5

TRANSIENT: Final = "TransientTransactionError"

Client = pymongo.MongoClient[Document]


def bury(client: Client, tasks: Tasks, dead: Tasks) -> int:
    """Move failed tasks to their collection; return how many. Trips: 1 when there are none, else 5 per 100."""
    count = 0
    for _ in range(MOST_CHUNKS):
        with reading("look for failed tasks"), tasks.deadline():
            found = tasks.quick.find(queries.dead(), {"_id": 1}).sort("finished_at", 1).limit(MOST_AT_ONCE)
            ids = [document["_id"] for document in found]
        if not ids:
            break
        moved = _move(client, tasks, dead, ids)
        count += moved
        if not moved:
            break  # somebody else moves the same ones
    return count


def _move(client: Client, tasks: Tasks, dead: Tasks, ids: list[ObjectId]) -> int:
    def step(session: ClientSession) -> int:
        wanted = {"$and": [{"_id": {"$in": ids}}, queries.dead()]}
        documents = list(tasks.durable.find(wanted, session=session))
        if not documents:
            return 0
        for document in documents:
            document.pop("remove_at", None)  # kept until a person requeues or purges it
        copies = [ReplaceOne({"_id": document["_id"]}, document, upsert=True) for document in documents]
        dead.durable.bulk_write(copies, session=session)
        # One that has left `failed` since the snapshot is a write conflict here, which undoes the copies too.
        gone = {"_id": {"$in": [document["_id"] for document in documents]}}
        deleted: int = tasks.durable.delete_many(gone, session=session).deleted_count
        return deleted

    with reading("move failed tasks"), tasks.deadline():
        try:
            moved: int = _in_transaction(client, tasks, step)
            return moved
        except PyMongoError as error:
            # A conflict: somebody moves or requeues them at this moment. An unknown commit shows at the next look.
            if error.has_error_label(TRANSIENT) or error.has_error_label("UnknownTransactionCommitResult"):
                return 0
            raise


def _in_transaction(client: Client, tasks: Tasks, step: Callable[[ClientSession], Any]) -> Any:
    with (
        client.start_session() as session,
        session.start_transaction(write_concern=tasks.durable.write_concern),
    ):
        return step(session)


def settled_there(dead: Tasks, settlements: Sequence[Settlement], verdicts: list[Verdict]) -> list[Verdict]:
    """Correct the verdicts of settlements whose reply was lost, and whose task was moved before it was read back.
    Trips: 0, or 1 when one that failed its task is said to be lost."""
    lost = [
        one.id for one, verdict in zip(settlements, verdicts, strict=True) if verdict == "lost" and one.move == "fail"
    ]
    if not lost:
        return verdicts
    with reading("read settlements back"), dead.deadline():
        found = dead.committed.find({"_id": {"$in": lost}}, {"settled_by": 1})
        by = {document["_id"]: document.get("settled_by") for document in found}
    return [
        "settled" if verdict == "lost" and by.get(one.id) == one.claim_id else verdict
        for one, verdict in zip(settlements, verdicts, strict=True)
    ]


def requeue(
    client: Client, tasks: Tasks, dead: Tasks, ids: Sequence[ObjectId], how: Requeue, now: datetime
) -> list[Requeued]:
    """Move dead letters back among the tasks; see `Store.requeue`. Trips: 4 for each: one that meets a twin must not
    undo the others."""
    return [_requeue(client, tasks, dead, id, how, whole_ms(now)) for id in ids]


def _requeue(client: Client, tasks: Tasks, dead: Tasks, id: ObjectId, how: Requeue, now: datetime) -> Requeued:
    def step(session: ClientSession) -> Requeued:
        document = dead.durable.find_one({"_id": id, "status": {"$in": list(TERMINAL)}}, session=session)
        if document is None:
            return Requeued(id, "gone")
        task: TaskDocument = document  # type: ignore[assignment]
        move.apply(task, how, now)
        tasks.durable.insert_one(dict(task), session=session)
        dead.durable.delete_one({"_id": id}, session=session)
        return Requeued(id, "requeued")

    with writing("requeue a dead letter"), tasks.deadline():
        for left in reversed(range(MOST_TRIES)):
            try:
                became: Requeued = _in_transaction(client, tasks, step)
                return became
            except DuplicateKeyError as error:
                there = "_id" in ((error.details or {}).get("keyPattern") or {})
                return Requeued(id, "not terminal" if there else "conflict", short(error))
            except (KeyError, TypeError, PayloadUndecodable, OptionInvalid) as error:
                return Requeued(id, "refused", f"it is not as a task is stored: {error!r}")
            except PyMongoError as error:
                if error.has_error_label("UnknownTransactionCommitResult"):
                    raise OutcomeUnknown(f"requeue a dead letter: {short(error)}") from error
                if not error.has_error_label(TRANSIENT) or not left:
                    raise
    raise AssertionError  # the last try returns or raises
