"""Settling, on the real server: one statement for all that end alike, one each for what differs, one round trip.

Fewer matched than sent means that somebody lost a lease, or that a reply was lost: then every task of the batch is
read back. `settled_by` tells what this batch did from what others did; what is still held is written again.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

import msgspec
from bson import ObjectId
from pymongo import DeleteMany, UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, PyMongoError

from streamq.core.moves import settle as move
from streamq.core.moves.fence import fence, is_held
from streamq.core.settlement import Settlement, Verdict, outgrown
from streamq.errors import OutcomeUnknown, StoreError, StoreUnavailable
from streamq.store.collections import Document, Tasks
from streamq.store.faults import MAYBE_APPLIED, TOO_LARGE, is_unknown, reading, short, translated

Statement = UpdateMany | UpdateOne | DeleteMany
Key = tuple[ObjectId, bytes]
"""What one settlement ends: a task and the claim it was held under."""

FENCED = {"queue": 1, "status": 1, "claim_id": 1, "settled_by": 1}
"""What tells whose a task is."""

PAUSE_S = 0.05
"""Between a write that failed on the wire and its repetition; selecting a server waits by itself."""


def settle(tasks: Tasks, settlements: Sequence[Settlement]) -> list[Verdict]:
    """See `Store.settle`. Trips: 1 (2 when both deletes and updates are among them), 2 more after a loss.

    Raises `OutcomeUnknown` when the deadline passes without an answer; repeating the call is safe.
    """
    verdicts: dict[Key, Verdict] = {}
    pending = list(settlements)
    deadline = time.monotonic() + tasks.timeout_s
    sent = False
    while pending:
        try:
            written = _write(tasks, pending)
            sent = True
            if written.matched == len(pending):
                break
            known = _read_back(tasks, pending, written)
        except StoreUnavailable as error:
            if not sent:
                raise
            raise OutcomeUnknown(f"settle tasks: the outcome is unknown, it may have been applied: {error}") from error
        verdicts.update(known)
        pending = [outgrown(one) if _key(one) in written.outgrown else one for one in pending if _key(one) not in known]
        if pending and time.monotonic() > deadline:
            raise OutcomeUnknown(f"{len(pending)} settlement(s) got no answer in {tasks.timeout_s:g} s")
        if pending:
            time.sleep(PAUSE_S)
    return [verdicts.get(_key(one), "settled") for one in settlements]


def _key(settlement: Settlement) -> Key:
    return settlement.id, settlement.claim_id


class Written(msgspec.Struct, frozen=True):
    """What a batch did: how many matched, how many of these were deleted; None when the reply was lost. `outgrown` are
    those whose result or error the server has no room for."""

    matched: int | None
    deleted: int | None
    outgrown: frozenset[Key] = frozenset()


def _write(tasks: Tasks, settlements: Sequence[Settlement]) -> Written:
    groups = _groups(settlements)
    try:
        with tasks.deadline():
            done = tasks.durable.bulk_write([_statement(group) for group in groups], ordered=False)
    except BulkWriteError as error:
        return _write_failed(error, groups)
    except PyMongoError as error:
        if not is_unknown(error):
            raise translated(error, "settle tasks", writing=True) from error
        return Written(None, None)
    return Written(done.matched_count + done.deleted_count, done.deleted_count)


def _write_failed(error: BulkWriteError, groups: Sequence[Sequence[Settlement]]) -> Written:
    """Single statements failed inside a batch that was answered. What is too large is named; what may have been applied
    makes the batch's outcome unknown; anything else is raised."""
    details = error.details or {}
    too_large: set[Key] = set()
    maybe_applied = bool(details.get("writeConcernErrors"))
    for one in details.get("writeErrors", ()):
        group = groups[one["index"]]
        if one.get("code") in TOO_LARGE and not move.is_uniform(group[0]):
            too_large.add(_key(group[0]))
        elif one.get("code") in MAYBE_APPLIED:
            maybe_applied = True
        else:
            raise StoreError(f"cannot settle tasks: {short(error)}") from error
    if maybe_applied:
        return Written(None, None, frozenset(too_large))
    deleted = details["nRemoved"]
    return Written(details["nMatched"] + deleted, deleted, frozenset(too_large))


def _groups(settlements: Sequence[Settlement]) -> list[list[Settlement]]:
    """Group what is written alike. The fence takes one claim id a statement, so a claim's tasks go together."""
    alike: dict[tuple[str, bytes, str, float, float], list[Settlement]] = defaultdict(list)
    single: list[list[Settlement]] = []
    for one in settlements:
        if one.deletes or move.is_uniform(one):
            alike[one.queue, one.claim_id, one.move, one.delay_s, one.keep_s].append(one)
        else:
            single.append([one])
    return [*alike.values(), *single]


def _statement(group: Sequence[Settlement]) -> Statement:
    first = group[0]
    held = fence(first.queue, first.claim_id, [one.id for one in group])
    if first.deletes:
        return DeleteMany(held)
    # One alone is written so that the driver may repeat it.
    return UpdateMany(held, move.update(first)) if move.is_uniform(first) else UpdateOne(held, move.update(first))


def _read_back(tasks: Tasks, settlements: Sequence[Settlement], written: Written) -> dict[Key, Verdict]:
    """Find out what became of each; those that are still held under their claim are left out."""
    ids = [one.id for one in settlements]
    with reading("read settlements back"), tasks.deadline():
        found = tasks.committed.find({"_id": {"$in": ids}}, FENCED)
        stored = {document["_id"]: document for document in found}
    gone = sum(one.deletes and one.id not in stored for one in settlements)
    of_missing: Verdict = "settled" if written.deleted is not None and gone <= written.deleted else "unknown"
    verdicts: dict[Key, Verdict] = {}
    for one in settlements:
        verdict = _verdict(one, stored.get(one.id), of_missing)
        if verdict is not None:
            verdicts[_key(one)] = verdict
    return verdicts


def _verdict(settlement: Settlement, document: Document | None, of_missing: Verdict) -> Verdict | None:
    if document is None:
        return of_missing if settlement.deletes else "lost"
    if document.get("settled_by") == settlement.claim_id:
        return "settled"
    if is_held(document, settlement.queue, settlement.claim_id):
        return None
    return "lost"
