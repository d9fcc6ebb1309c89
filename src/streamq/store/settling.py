"""Settling, on the real server: one statement for all that end alike, one each for what differs, one round trip.

Fewer matched than sent means that somebody lost a lease, that a reply was lost, or that the server refused something:
then every task of the batch is read back. `settled_by` tells what this batch did from what others did; what is still
held is written again. What was refused because of its task is never sent again as it was, or it would hold up its
batch for ever: a statement for many is written one by one, and one alone becomes a failure that says why.

Where there is a collection for dead letters, what fails is written apart, in transactions that move it there
(`dead_letters`); to a queue without one nothing of that happens.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set

import msgspec
from bson import ObjectId
from bson.errors import BSONError
from pymongo import DeleteMany, UpdateMany, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DocumentTooLarge

from streamq.core.moves import settle as move
from streamq.core.moves.fence import fence, is_followed, is_held
from streamq.core.settlement import Settlement, Verdict, outgrown, refused
from streamq.errors import AccessRefused, OutcomeUnknown, StoreUnavailable
from streamq.store import dead_letters
from streamq.store.collections import Document, Tasks
from streamq.store.faults import (
    ACCESS,
    DRIVER_ERRORS,
    MAYBE_APPLIED,
    PASSING,
    SHOWN,
    TOO_LARGE,
    DriverError,
    is_unknown,
    may_pass,
    reading,
    short,
    translated,
)

Statement = UpdateMany | UpdateOne | DeleteMany
Key = tuple[ObjectId, bytes]
"""What one settlement ends: a task and the claim it was held under."""

FENCED = {"queue": 1, "status": 1, "claim_id": 1, "settled_by": 1, "has_children": 1, "group": 1}
"""What tells whose a task is, and whether others wait for its end."""

UNFOLLOWED = {"has_children": {"$ne": True}, "group": {"$not": {"$type": "string"}}}
"""What may be deleted at once. Children may have been put since the claim."""

PAUSE_S = 0.05
"""Between a write that failed on the wire and its repetition; selecting a server waits by itself."""


def settle(tasks: Tasks, settlements: Sequence[Settlement]) -> list[Verdict]:
    """See `Store.settle`. Trips: 1 (2 when both deletes and updates are among them), 2 more after a loss.

    Raises `OutcomeUnknown` when the deadline passes without an answer; repeating the call is safe.
    """
    verdicts: dict[Key, Verdict] = {}
    pending = list(settlements)
    alone: set[Key] = set()
    instead: set[Key] = set()
    deadline = time.monotonic() + tasks.timeout_s
    sent = False
    while pending:
        try:
            written = _write(tasks, pending, alone)
            sent = True
            if written.matched == len(pending):
                break
            known, followed = _read_back(tasks, pending, written)
        except StoreUnavailable as error:
            if not sent:
                raise
            raise OutcomeUnknown(f"settle tasks: the outcome is unknown, it may have been applied: {error}") from error
        verdicts.update(known)
        # One that was written in place of another and is refused too is the last that could be said.
        verdicts.update({key: "refused" for key in written.refusals.keys() & instead if key not in known})
        pending = [_next(one, written.refusals, followed) for one in pending if _key(one) not in verdicts]
        alone |= written.apart
        instead |= written.refusals.keys()
        if pending and time.monotonic() > deadline:
            raise OutcomeUnknown(f"{len(pending)} settlement(s) got no answer in {tasks.timeout_s:g} s")
        if any(_key(one) not in followed for one in pending):
            time.sleep(PAUSE_S)
    return [verdicts.get(_key(one), "settled") for one in settlements]


def _next(settlement: Settlement, refusals: Mapping[Key, Refusal], followed: Set[Key]) -> Settlement:
    """Return what is written in the next round."""
    refusal = refusals.get(_key(settlement))
    if refusal is None:
        return msgspec.structs.replace(settlement, followed=True) if _key(settlement) in followed else settlement
    if refusal.code in TOO_LARGE and not move.is_uniform(settlement):
        return outgrown(settlement)
    return refused(settlement, refusal.said)


def _key(settlement: Settlement) -> Key:
    return settlement.id, settlement.claim_id


class Refusal(msgspec.Struct, frozen=True):
    """Why the server does not take one settlement, whatever the time."""

    code: int
    said: str


class Written(msgspec.Struct, frozen=True):
    """What a batch did: how many matched, how many of these were deleted; None when the reply was lost. `refusals` are
    of single settlements; those `apart` shared a statement of which one or more were refused."""

    matched: int | None
    deleted: int | None
    refusals: Mapping[Key, Refusal] = {}
    apart: frozenset[Key] = frozenset()


Write = Callable[[Tasks, Sequence[Settlement], Set[Key]], Written]


def _write(tasks: Tasks, settlements: Sequence[Settlement], alone: Set[Key]) -> Written:
    if tasks.dead is None:
        return _write_here(tasks, settlements, alone)
    failed = [one for one in settlements if one.move == "fail"]
    if not failed:
        return _write_here(tasks, settlements, alone)
    others = [one for one in settlements if one.move != "fail"]
    written = _write_here(tasks, others, alone) if others else Written(0, 0)
    for chunk in _chunks(failed, alone):
        try:
            more = _write_failures(tasks, chunk, alone)
        except StoreUnavailable:
            if not others and chunk[0] is failed[0]:
                raise
            more = Written(None, None)  # with the others written, "nothing has changed" would be false
        written = _both(written, more)
    return written


def _chunks(failed: Sequence[Settlement], alone: Set[Key]) -> list[list[Settlement]]:
    many = [one for one in failed if _key(one) not in alone]
    size = dead_letters.MOST_AT_ONCE
    chunks = [many[start : start + size] for start in range(0, len(many), size)]
    return chunks + [[one] for one in failed if _key(one) in alone]


def _write_failures(tasks: Tasks, settlements: Sequence[Settlement], alone: Set[Key]) -> Written:
    """Fail tasks and move them to the dead letters. One alone that cannot be moved fails where it is; one that somebody
    else writes holds up no other."""
    statements = [UpdateOne(fence(one.queue, one.claim_id, [one.id]), move.update(one)) for one in settlements]
    try:
        return Written(dead_letters.end(tasks, statements, [one.id for one in settlements]), 0)
    except DRIVER_ERRORS as error:
        if dead_letters.is_crossed(error) and len(settlements) > 1:
            return _in_halves(tasks, settlements, alone, _write_failures)
        if dead_letters.is_undone(error):
            return Written(0, 0)
        if dead_letters.passes(error):
            return Written(None, None)
        if not dead_letters.is_of_the_tasks(error):
            raise translated(error, "settle tasks", writing=True) from error
    if len(settlements) == 1:
        return _write_here(tasks, settlements, alone)
    return Written(0, 0, apart=frozenset(map(_key, settlements)))


def _both(first: Written, second: Written) -> Written:
    return Written(
        None if first.matched is None or second.matched is None else first.matched + second.matched,
        None if first.deleted is None or second.deleted is None else first.deleted + second.deleted,
        {**first.refusals, **second.refusals},
        first.apart | second.apart,
    )


def _write_here(tasks: Tasks, settlements: Sequence[Settlement], alone: Set[Key]) -> Written:
    groups = _groups(settlements, alone)
    try:
        with tasks.deadline():
            done = tasks.durable.bulk_write([_statement(group) for group in groups], ordered=False)
    except BulkWriteError as error:
        return _write_failed(error, groups)
    except DRIVER_ERRORS as error:
        if is_unknown(error) or may_pass(error):
            return Written(None, None)
        if not _is_of_one(error):
            raise translated(error, "settle tasks", writing=True) from error
        return _write_halves(tasks, settlements, alone, error)
    return Written(done.matched_count + done.deleted_count, done.deleted_count)


def _is_of_one(error: DriverError) -> bool:
    """Say whether a whole batch was refused because of one settlement that cannot even be sent."""
    return isinstance(error, BSONError) or getattr(error, "code", None) in TOO_LARGE


def _write_halves(tasks: Tasks, settlements: Sequence[Settlement], alone: Set[Key], error: DriverError) -> Written:
    """Find the one that cannot be sent: no index tells which it is."""
    if len(settlements) == 1:
        code = min(TOO_LARGE) if isinstance(error, DocumentTooLarge) else getattr(error, "code", None)
        return Written(0, 0, {_key(settlements[0]): Refusal(code or 0, short(error))})
    return _in_halves(tasks, settlements, alone, _write_here)


def _in_halves(tasks: Tasks, settlements: Sequence[Settlement], alone: Set[Key], write: Write) -> Written:
    middle = len(settlements) // 2
    first = write(tasks, settlements[:middle], alone)
    try:
        second = write(tasks, settlements[middle:], alone)
    except StoreUnavailable:
        second = Written(None, None)  # with the first half written, "nothing has changed" would be false
    return _both(first, second)


def _write_failed(error: BulkWriteError, groups: Sequence[Sequence[Settlement]]) -> Written:
    """Single statements failed inside a batch that was answered. What was refused because of its task is named; what
    may have been applied, or may pass, makes the batch's outcome unknown: it is read back and written again."""
    details = error.details or {}
    refusals: dict[Key, Refusal] = {}
    apart: set[Key] = set()
    maybe_applied = bool(details.get("writeConcernErrors"))
    for one in details.get("writeErrors", ()):
        group, code = groups[one["index"]], one.get("code")
        if code in ACCESS:
            raise AccessRefused(f"the server refused to settle tasks: {short(error)}") from error
        if code in MAYBE_APPLIED or code in PASSING:
            maybe_applied = True
        elif len(group) > 1:
            apart.update(map(_key, group))
        else:
            refusals[_key(group[0])] = Refusal(code, f"{str(one.get('errmsg'))[:SHOWN]} (code {code})")
    if maybe_applied:
        return Written(None, None, refusals, frozenset(apart))
    deleted = details["nRemoved"]
    return Written(details["nMatched"] + deleted, deleted, refusals, frozenset(apart))


def _groups(settlements: Sequence[Settlement], alone: Set[Key]) -> list[list[Settlement]]:
    """Group what is written alike, but for those that are to stand alone. The fence takes one claim id a statement, so
    a claim's tasks go together."""
    alike: dict[tuple[str, bytes, str, float, float, bool, bool], list[Settlement]] = defaultdict(list)
    single: list[list[Settlement]] = []
    for one in settlements:
        if (one.deletes or move.is_uniform(one)) and not (alone and _key(one) in alone):
            alike[one.queue, one.claim_id, one.move, one.delay_s, one.keep_s, one.followed, one.frees].append(one)
        else:
            single.append([one])
    return [*alike.values(), *single]


def _statement(group: Sequence[Settlement]) -> Statement:
    first = group[0]
    held = fence(first.queue, first.claim_id, [one.id for one in group])
    if first.deletes:
        return DeleteMany(held | UNFOLLOWED)
    # One alone is written so that the driver may repeat it.
    return UpdateMany(held, move.update(first)) if move.is_uniform(first) else UpdateOne(held, move.update(first))


def _read_back(
    tasks: Tasks, settlements: Sequence[Settlement], written: Written
) -> tuple[dict[Key, Verdict], set[Key]]:
    """Find out what became of each; those that are still held under their claim are left out. Of these, say which were
    to be deleted and could not be, because others wait for their ends.

    A claim is written with w:1, so what the majority has may be older than it: then the task is not held yet, and
    would look lost. Lost is only what the primary itself says is lost too; where they differ it is asked again.
    """
    stored = _look(tasks, tasks.committed, settlements)
    gone = sum(one.deletes and one.id not in stored for one in settlements)
    of_missing: Verdict = "settled" if written.deleted is not None and gone <= written.deleted else "unknown"
    verdicts: dict[Key, Verdict] = {}
    for one in settlements:
        verdict = _verdict(one, stored.get(one.id), of_missing)
        if verdict is not None:
            verdicts[_key(one)] = verdict
    lost = [one for one in settlements if verdicts.get(_key(one)) == "lost"]
    if lost:
        local = _look(tasks, tasks.quick, lost)
        for one in lost:
            if _verdict(one, local.get(one.id), of_missing) != "lost":
                del verdicts[_key(one)]
    kept = {_key(one) for one in settlements if one.deletes and is_followed(stored.get(one.id, {}))}
    return verdicts, kept - verdicts.keys()


def _look(tasks: Tasks, handle: Collection[Document], settlements: Sequence[Settlement]) -> dict[ObjectId, Document]:
    ids = [one.id for one in settlements]
    with reading("read settlements back"), tasks.deadline():
        found = {document["_id"]: document for document in handle.find({"_id": {"$in": ids}}, FENCED)}
        missing = [id for id in ids if id not in found] if tasks.dead is not None else []
        if tasks.dead is not None and missing:
            moved = tasks.dead.committed.find({"_id": {"$in": missing}}, FENCED)
            found |= {document["_id"]: document for document in moved}
    return found


def _verdict(settlement: Settlement, document: Document | None, of_missing: Verdict) -> Verdict | None:
    if document is None:
        return of_missing if settlement.deletes else "lost"
    if document.get("settled_by") == settlement.claim_id:
        return "settled"
    if is_held(document, settlement.queue, settlement.claim_id):
        return None
    return "lost"
