"""Cancelling, on the real server: end what nobody holds, ask the holders of the rest, and read what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from bson import ObjectId
from pymongo import UpdateMany
from pymongo.errors import BulkWriteError

from streamq.core.claim import Claim
from streamq.core.moves import cancel as move
from streamq.core.moves.cancel import CancelReply, reply_of
from streamq.errors import OutcomeUnknown
from streamq.store.collections import Document, Tasks
from streamq.store.faults import ACCESS, MAYBE_APPLIED, PASSING, reading, writing

MOST_A_CANCEL: Final = 1_000
"""Tasks in one statement; as a put has them."""


def cancel(tasks: Tasks, ids: Sequence[ObjectId]) -> list[CancelReply]:
    """See `Store.cancel`. Trips: 2 per 1,000 tasks; 2 more for each time that one passed between two statements."""
    replies: dict[ObjectId, CancelReply] = {}
    for start in range(0, len(ids), MOST_A_CANCEL):
        replies |= _cancel(tasks, list(dict.fromkeys(ids[start : start + MOST_A_CANCEL])))
    return [replies[id] for id in ids]


def _cancel(tasks: Tasks, ids: list[ObjectId]) -> dict[ObjectId, CancelReply]:
    replies: dict[ObjectId, CancelReply] = {}
    deadline = time.monotonic() + tasks.timeout_s
    while ids:
        with writing("cancel tasks"), tasks.deadline():
            _write(tasks, ids)
            found = tasks.quick.find({"_id": {"$in": ids}, "status": {"$exists": True}}, {"status": 1, "cancel_to": 1})
            stored: dict[ObjectId, Document] = {document["_id"]: document for document in found}
            missing = [id for id in ids if id not in stored] if tasks.dead is not None else []
            if tasks.dead is not None and missing:
                moved = tasks.dead.quick.find({"_id": {"$in": missing}}, {"status": 1})
                stored |= {document["_id"]: document for document in moved}
        for id in ids:
            # None: it was put back by its holder after the first statement and before the second.
            if (reply := reply_of(stored.get(id))) is not None:
                replies[id] = reply
        ids = [id for id in ids if id not in replies]
        if ids and time.monotonic() > deadline:
            raise OutcomeUnknown(f"{len(ids)} task(s) could not be cancelled in {tasks.timeout_s:g} s: try again")
    return replies


def _write(tasks: Tasks, ids: list[ObjectId]) -> None:
    """Run both statements. One task that the server lets nobody change ends a statement before the rest of it: the
    halves are tried, and its error is raised when all others are done."""
    chosen = {"_id": {"$in": ids}}
    statements = [UpdateMany(chosen | move.WAITS, move.update()), UpdateMany(chosen | move.RUNS, move.ask())]
    try:
        tasks.durable.bulk_write(statements, ordered=False)
        return
    except BulkWriteError as error:
        if len(ids) == 1 or not _is_of_one(error):
            raise
    middle = len(ids) // 2
    try:
        _write(tasks, ids[:middle])
    finally:
        _write(tasks, ids[middle:])


def _is_of_one(error: BulkWriteError) -> bool:
    said = (error.details or {}).get("writeErrors", ())
    return bool(said) and all(one.get("code") not in MAYBE_APPLIED | PASSING | ACCESS for one in said)


def asked(tasks: Tasks, claims: Sequence[Claim]) -> list[ObjectId]:
    """See `Store.asked`. Trips: 1; reads the tasks by their ids."""
    with reading("look for tasks to be cancelled"), tasks.deadline():
        wanted = {"_id": {"$in": [one.id for one in claims]}, "cancel_to": {"$exists": True}}
        found = {one["_id"]: one.get("claim_id") for one in tasks.quick.find(wanted, {"claim_id": 1})}
    return [one.id for one in claims if found.get(one.id) == one.claim_id]
