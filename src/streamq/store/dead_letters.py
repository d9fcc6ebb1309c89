"""Dead letters in a collection of their own: failed tasks move there, and back when they are requeued.

One transaction fails a task and moves it:

    the update that ends it ── what is failed then is read ── stored there ── deleted here ── commit

So at every moment a task is in one of the two collections, as a whole: running (or blocked) here or failed there. The
update is one of its own although the document goes at once: the stream tells it, to who waits for the result, for a
slot, or has to see to followers. What follows the end of a task keeps its mark there (`follow_up`), where any scheduler
finds it as it does here: a dead letter with a thousand children moves as quickly as one without.

What cannot be failed so, because the server takes it here and not there (a validator of the user's own, a right that is
missing), fails where it is, and is moved by `bury` as soon as that can be done. The same moves what failed before the
option was given, or in a process without it: what is to be moved is whatever is `failed` among the tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import pymongo
from bson import ObjectId
from bson.errors import BSONError
from pymongo import ReplaceOne, UpdateMany, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, DocumentTooLarge, DuplicateKeyError, OperationFailure, PyMongoError

from streamq.core import queries
from streamq.core.document import FAILED, TERMINAL, TaskDocument
from streamq.core.moves import requeue as move_back
from streamq.core.moves.put import whole_ms
from streamq.core.moves.requeue import Requeue
from streamq.core.requeued import Requeued
from streamq.errors import OptionInvalid, OutcomeUnknown, PayloadUndecodable, StoreError
from streamq.store.collections import Document, Tasks
from streamq.store.contract import Refused
from streamq.store.faults import DRIVER_ERRORS, MAYBE_APPLIED, DriverError, is_unknown, reading, short, writing
from streamq.store.moving import IN_THE_WAY, move

MOST_AT_ONCE: Final = 100
"""Tasks in one transaction: a hundred of a megabyte each stay far below what one may hold."""

MOST_CHUNKS: Final = 10
"""How much one look moves, so that a thousand old failures hold up no scheduler."""

MOST_TRIES: Final = 5
PAUSE_S: Final = 0.01
"""Between two tries to requeue a letter, doubled each time: 0.15 s in all, in which most transactions end."""

TRANSIENT: Final = "TransientTransactionError"
UNKNOWN_COMMIT: Final = "UnknownTransactionCommitResult"

Statement = UpdateOne | UpdateMany


def end(tasks: Tasks, statements: Sequence[Statement], ids: Sequence[ObjectId]) -> int:
    """Run `statements` and move those of `ids` that are failed then, in one transaction; return how many tasks the
    statements matched (without statements: how many were moved). Raises the driver's errors: then nothing of it has
    happened, unless `passes` says that nobody knows.

    Trips: 5, or 2 when none is failed then.
    """
    dead = tasks.dead
    assert dead is not None

    def step(session: ClientSession) -> int:
        matched = 0
        if statements:
            matched = tasks.durable.bulk_write(statements, session=session).matched_count
        documents = list(tasks.durable.find({"_id": {"$in": list(ids)}, "status": FAILED}, session=session))
        if documents:
            for document in documents:
                document.pop("remove_at", None)  # kept until a person requeues or purges it
            copies = [ReplaceOne({"_id": document["_id"]}, document, upsert=True) for document in documents]
            dead.durable.bulk_write(copies, session=session)
            # One that has left `failed` since the snapshot is a write conflict here, which undoes the copies too.
            gone = {"_id": {"$in": [document["_id"] for document in documents]}}
            tasks.durable.delete_many(gone, session=session)
        return matched if statements else len(documents)

    with tasks.deadline():
        ended: int = _in_transaction(tasks, step)
    return ended


def passes(error: DriverError) -> bool:
    """Say whether what kept a transaction from its end may be over in a moment (somebody else writes the same tasks),
    or whether nobody knows if it was kept from it."""
    if is_undone(error) or (isinstance(error, PyMongoError) and error.has_error_label(UNKNOWN_COMMIT)):
        return True
    said = (error.details or {}).get("writeErrors", ()) if isinstance(error, BulkWriteError) else ()
    return is_unknown(error) or any(one.get("code") in MAYBE_APPLIED for one in said)


def is_undone(error: DriverError) -> bool:
    """Say whether a transaction was undone for a reason that passes."""
    return isinstance(error, PyMongoError) and error.has_error_label(TRANSIENT)


def is_crossed(error: DriverError) -> bool:
    """Say whether it was undone because somebody else writes one of its tasks, or because it is too much for the
    server's memory: a smaller one, without that task, may be taken at once."""
    return is_undone(error) and isinstance(error, OperationFailure) and error.code not in MAYBE_APPLIED


def is_of_the_tasks(error: DriverError) -> bool:
    """Say whether it was an answer to what was written: others, or without moving them, may be taken."""
    return isinstance(error, OperationFailure | BSONError | DocumentTooLarge)


def fail(
    tasks: Tasks, guard: dict[str, Any], update: list[dict[str, Any]], ids: list[Any], refused: list[Refused]
) -> int:
    """As `moving.move`, for a move by which tasks fail: those that do are moved to the dead letters with it, if there
    is a collection for them."""
    if tasks.dead is None:
        return move(tasks.durable, guard, update, ids, refused)
    chunks = (ids[start : start + MOST_AT_ONCE] for start in range(0, len(ids), MOST_AT_ONCE))
    return sum(_fail(tasks, guard, update, chunk, refused) for chunk in chunks)


def _fail(
    tasks: Tasks, guard: dict[str, Any], update: list[dict[str, Any]], ids: list[Any], refused: list[Refused]
) -> int:
    try:
        return end(tasks, [UpdateMany(guard | {"_id": {"$in": ids}}, update)], ids)
    except DRIVER_ERRORS as error:
        if passes(error) and not (len(ids) > 1 and is_crossed(error)):
            refused.append(Refused(ids[0], IN_THE_WAY))
            return 0
        if not passes(error) and not is_of_the_tasks(error):
            raise
    if len(ids) == 1:
        return move(tasks.durable, guard, update, ids, refused)  # and `bury` tells why it stays
    middle = len(ids) // 2
    return sum(_fail(tasks, guard, update, half, refused) for half in (ids[:middle], ids[middle:]))


def bury(tasks: Tasks, refused: list[Refused]) -> int:
    """Move tasks that have failed without being moved; return how many. Those that the server does not take there are
    put among `refused`. Trips: 1 when there are none, else 5 per 100."""
    count = 0
    for _ in range(MOST_CHUNKS):
        stuck = [one.id for one in refused]
        with reading("look for failed tasks"), tasks.deadline():
            wanted = queries.dead() | ({"_id": {"$nin": stuck}} if stuck else {})
            found = tasks.quick.find(wanted, {"_id": 1}).sort("finished_at", 1).limit(MOST_AT_ONCE)
            ids = [document["_id"] for document in found]
        if not ids:
            break
        with reading("move failed tasks"):
            moved = _bury(tasks, ids, refused)
        count += moved
        if not moved:
            break  # somebody else moves the same ones
    return count


def _bury(tasks: Tasks, ids: list[ObjectId], refused: list[Refused]) -> int:
    try:
        return end(tasks, (), ids)
    except DRIVER_ERRORS as error:
        if passes(error) and not (len(ids) > 1 and is_crossed(error)):
            return 0
        if not passes(error) and not is_of_the_tasks(error):
            raise
        if len(ids) == 1:
            refused.append(Refused(ids[0], f"it has failed and is not moved to the dead letters: {short(error)}"))
            return 0
    middle = len(ids) // 2
    return sum(_bury(tasks, half, refused) for half in (ids[:middle], ids[middle:]))


def _in_transaction(tasks: Tasks, step: Callable[[ClientSession], Any]) -> Any:
    client: pymongo.MongoClient[Document] = tasks.durable.database.client
    with (
        client.start_session() as session,
        session.start_transaction(write_concern=tasks.durable.write_concern),
    ):
        return step(session)


def requeue(living: Tasks, ids: Sequence[ObjectId], how: Requeue, now: datetime) -> list[Requeued]:
    """Move dead letters back among the tasks; see `Store.requeue`. One whose lifetime is over is gone already, though
    the server's own removal may be a minute behind. Trips: 4 for each: one that meets a twin must not undo the
    others."""
    assert living.dead is not None
    report: list[Requeued] = []
    for id in ids:
        try:
            report.append(_requeue(living, living.dead, id, how, whole_ms(now)))
        except OutcomeUnknown:
            raise
        except StoreError as error:
            if not any(one.verdict == "requeued" for one in report):
                raise
            # "Nothing has changed" would be false.
            raise OutcomeUnknown(f"requeue dead letters: some have been requeued, not all: {error}") from error
    return report


def _requeue(tasks: Tasks, dead: Tasks, id: ObjectId, how: Requeue, now: datetime) -> Requeued:
    wanted = {"_id": id, "status": {"$in": list(TERMINAL)}, "$nor": [queries.outlived()]}

    def step(session: ClientSession) -> Requeued:
        document = dead.durable.find_one(wanted, session=session)
        if document is None:
            return Requeued(id, "gone")
        task: TaskDocument = document  # type: ignore[assignment]
        move_back.apply(task, how, now)
        tasks.durable.insert_one(dict(task), session=session)
        dead.durable.delete_one({"_id": id}, session=session)
        return Requeued(id, "requeued")

    with writing("requeue a dead letter"), tasks.deadline():
        for left in reversed(range(MOST_TRIES)):
            try:
                became: Requeued = _in_transaction(tasks, step)
                return became
            except DuplicateKeyError as error:
                there = "_id" in ((error.details or {}).get("keyPattern") or {})
                return Requeued(id, "not terminal" if there else "conflict", short(error))
            except (KeyError, TypeError, PayloadUndecodable, OptionInvalid) as error:
                return Requeued(id, "refused", f"it is not as a task is stored: {error!r}")
            except PyMongoError as error:
                if error.has_error_label(UNKNOWN_COMMIT):
                    raise OutcomeUnknown(f"requeue a dead letter: {short(error)}") from error
                if not left and is_crossed(error):
                    return Requeued(id, "conflict", f"somebody writes the same, or its unique key: {short(error)}")
                if not error.has_error_label(TRANSIENT) or not left:
                    raise
                time.sleep(PAUSE_S * 2 ** (MOST_TRIES - 1 - left))
    raise AssertionError  # the last try returns or raises


def marked(tasks: Tasks, limit: int) -> list[Document]:
    """Read dead letters whose followers are to be seen to. Trips: 0 without a collection for them, else 1."""
    if tasks.dead is None:
        return []
    return list(tasks.dead.quick.find(queries.marked_dead(), queries.MARKED).limit(limit))


def statuses(tasks: Tasks, ids: Sequence[ObjectId]) -> dict[ObjectId, str]:
    """Read the statuses of tasks, wherever they are. Trips: 1, or 3 when some are not among the tasks and there is a
    collection for dead letters: one that moves there or back between two looks is found by the third."""
    found: dict[ObjectId, str] = {}
    for handle in (tasks, tasks.dead, tasks):
        missing = [id for id in ids if id not in found]
        if not missing or handle is None:
            break
        wanted = {"_id": {"$in": missing}, "status": {"$exists": True}}
        found |= {one["_id"]: one["status"] for one in handle.quick.find(wanted, {"status": 1})}
    return found
