"""Transactions that end a task: the caller's own writes and the task's success are committed together, or neither.

    begin ── the caller's writes, with the session ── commit: the fence, then the commit
                                                └──── abort

The fence is the last write. Written early it would keep every other writer of the task waiting until the commit (above
all the batch that extends the leases of a process: 3 s were seen). Here the task is touched for one round trip.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Final

import msgspec
import pymongo
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from streamq.core.moves import settle as move
from streamq.core.moves.fence import fence
from streamq.core.settlement import Settlement, Verdict
from streamq.core.signals import TransactionAborted
from streamq.errors import OutcomeUnknown, StoreError
from streamq.store.collections import Document, Tasks
from streamq.store.faults import DRIVER_ERRORS, DriverError, is_refusal, reading, short, translated
from streamq.store.settling import UNFOLLOWED

Client = pymongo.MongoClient[Document]

TRANSIENT: Final = "TransientTransactionError"
UNKNOWN_COMMIT: Final = "UnknownTransactionCommitResult"

LIFETIME_S: Final = 60.0
"""The server's default for how long a transaction may be open; taken where the server does not let us ask."""

PAUSE_S: Final = 0.05
"""Between a commit whose outcome is unknown and its repetition; selecting a server waits by itself."""


def lifetime_s(client: Client, tasks: Tasks) -> float:
    """Return how long the server lets a transaction be open. Trips: 1."""
    name = "transactionLifetimeLimitSeconds"
    try:
        with tasks.deadline():
            return float(client.admin.command({"getParameter": 1, name: 1})[name])
    except OperationFailure:
        return LIFETIME_S


def begin(client: Client, tasks: Tasks) -> ClientSession:
    """See `Store.begin`. Trips: 0: the transaction begins on the server with its first operation."""
    with reading("begin a transaction"):
        session = client.start_session()
        session.start_transaction(
            read_concern=ReadConcern("snapshot"),
            write_concern=WriteConcern(w="majority", j=True),
            read_preference=ReadPreference.PRIMARY,
            max_commit_time_ms=round(tasks.timeout_s * 1000),
        )
    return session


def abort(tasks: Tasks, session: ClientSession, error: BaseException | None) -> str | None:
    """See `Store.abort`. Trips: 1 if anything was sent. An abort that fails is one nevertheless: the server ends the
    transaction by itself."""
    with contextlib.suppress(*DRIVER_ERRORS), tasks.deadline():
        session.end_session()
    return short(error) if isinstance(error, PyMongoError) and _is_passing(error) else None


def commit(tasks: Tasks, session: ClientSession, settlement: Settlement) -> Verdict:
    """See `Store.commit`. Trips: 2, or 3 of a task that was to be deleted and has got children; more while the outcome
    of the commit is unknown."""
    try:
        if not session.in_transaction:
            raise StoreError("the transaction was ended by the body of its block: leave commit and abort to the block")
        if not _settle(tasks, session, settlement):
            return "lost"
        return _commit(tasks, session, settlement)
    except TransactionAborted:
        # Taken over after the transaction had taken its snapshot shows as a conflict too.
        abort(tasks, session, None)
        if _is_lost(tasks, settlement):
            return "lost"
        raise
    finally:
        abort(tasks, session, None)


def _is_lost(tasks: Tasks, settlement: Settlement) -> bool:
    held = fence(settlement.queue, settlement.claim_id, [settlement.id])
    try:
        with tasks.deadline():
            return tasks.quick.find_one(held, {"_id": 1}) is None
    except DRIVER_ERRORS:
        return False


def _settle(tasks: Tasks, session: ClientSession, settlement: Settlement) -> bool:
    """Write the task's end; say whether it was still held."""
    held = fence(settlement.queue, settlement.claim_id, [settlement.id])
    try:
        with tasks.deadline():
            if settlement.deletes:
                if tasks.durable.delete_one(held | UNFOLLOWED, session=session).deleted_count:
                    return True
                settlement = msgspec.structs.replace(settlement, followed=True)  # if it is held: children were put
            return tasks.durable.update_one(held, move.update(settlement), session=session).matched_count == 1
    except DRIVER_ERRORS as error:
        if _is_passing(error):
            raise TransactionAborted(short(error)) from error
        if is_refusal(error):
            raise StoreError(
                f"the server refuses to store the success of task {settlement.id}: {short(error)}"
            ) from error
        raise translated(error, "settle a task in its transaction", writing=False) from error


def _commit(tasks: Tasks, session: ClientSession, settlement: Settlement) -> Verdict:
    """Commit, again while nobody knows whether it was: sent again it tells, and commits nothing twice."""
    until = time.monotonic() + tasks.timeout_s
    while True:
        try:
            with tasks.deadline():
                session.commit_transaction()
        except DRIVER_ERRORS as error:
            if not _is_unknown(error):
                if _was_committed(tasks, settlement):
                    return "settled"
                raise TransactionAborted(short(error)) from error
            if time.monotonic() < until:
                time.sleep(PAUSE_S)
                continue
            if _was_committed(tasks, settlement):
                return "settled"
            raise OutcomeUnknown(f"commit the transaction of task {settlement.id}: {short(error)}") from error
        return "settled"


def _was_committed(tasks: Tasks, settlement: Settlement) -> bool:
    """Read back, from what the majority has, whether the task carries this settlement."""
    try:
        with tasks.deadline():
            stored = tasks.committed.find_one({"_id": settlement.id}, {"settled_by": 1, "status": 1})
    except DRIVER_ERRORS:
        return False
    return stored is not None and stored.get("settled_by") == settlement.claim_id


def _is_passing(error: Any) -> bool:
    return isinstance(error, PyMongoError) and error.has_error_label(TRANSIENT)


def _is_unknown(error: DriverError) -> bool:
    return isinstance(error, PyMongoError) and error.has_error_label(UNKNOWN_COMMIT)
