"""Claiming, extending and giving back, on the real server.

A batch is found, then taken by a guarded update. When the update matched fewer than were found, others were
quicker for some: what is ours is read back by `claim_id`. When its reply was lost, the same read tells whether it
was applied; what may still be applied later is left to `abandon`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from bson import ObjectId
from pymongo import ReturnDocument, UpdateMany

from streamq.core import queries
from streamq.core.claim import Ask, Claim, claim_of, is_number, is_plain
from streamq.core.control import paused_of, queue_of
from streamq.core.moves import claim as move
from streamq.core.moves import extend as extend_move
from streamq.core.moves import settle as settle_move
from streamq.core.moves.fence import fence
from streamq.core.settlement import Settlement
from streamq.errors import ClaimUnknown, OutcomeUnknown, StoreError
from streamq.store import looking_ahead
from streamq.store.collections import Document, Tasks
from streamq.store.contract import Claimed, Refused, Renewed, Taking
from streamq.store.faults import (
    DRIVER_ERRORS,
    DriverError,
    is_refusal,
    is_unknown,
    reading,
    rereading,
    short,
    translated,
    writing,
)
from streamq.store.looking_ahead import Head

BY_ID: Final = [("_id", 1)]
"""Said to the server, which else weighs the index of claims against it (0.05 ms of 1.2)."""

MOST_LOOKS: Final = 10
"""How often one call looks past tasks that cannot be claimed. Each look passes over as many as were asked for."""


def claim(tasks: Tasks, ask: Ask, taking: Taking | None = None) -> Claimed:
    """See `Store.claim`. Trips: 1 for one of known ids, else 2, or 3 after a lost race; 2 more when all that was found
    has expired unnoticed, and when all that comes first is for others (`looking_ahead`)."""
    if ask.is_for_one and (claimed := _claim_one(tasks, ask, ask.ids or ())) is not None:
        return claimed
    refused: dict[ObjectId, str] = {}
    expired = False  # whether the head of the queue is known to hold what nobody has expired yet
    for _ in range(MOST_LOOKS):
        before = len(refused)
        read = _head(tasks, ask, but(ask, refused) | (queries.UNEXPIRED if expired else {}))
        if read is None:
            return Claimed((), more=False, refused=told(refused), paused=True)
        head, found = read, read.found
        wanted = _startable(found, ask)
        plain = all(map(is_plain, wanted))
        if taking is not None:
            taking([document["_id"] for document in wanted])
        mine = take(tasks, ask, wanted, refused)
        # A head of the queue that nobody may claim must not hide what waits behind it.
        if mine or (len(refused) == before and (plain or expired)):
            break
        expired = not plain
    claims = _claims(tasks, ask, wanted, mine)
    full = ask.ids is None and (head.more or len(claims) < len(found))
    lost = len(wanted) - len(mine) - (len(refused) - before)
    return Claimed(claims, more=full, refused=told(refused), past=head.past, lost=lost)


def claim_due(tasks: Tasks, ask: Ask, found: Sequence[Document]) -> Claimed:
    """See `Store.claim_due`. Trips: 1, 2 after a lost race, 1 more when one of them has a total time."""
    refused: dict[ObjectId, str] = {}
    wanted = list(found)
    claims = _claims(tasks, ask, wanted, take(tasks, ask, wanted, refused))
    return Claimed(claims, more=False, refused=told(refused))


@rereading
def _head(tasks: Tasks, ask: Ask, beside: dict[str, Any]) -> Head | None:
    """Read the first of the queue that `ask` may claim; None when it is paused and `ask` heeds that. Trips: 1, or as
    `looking_ahead.head`."""
    with reading("find ready tasks"), tasks.deadline():
        if not ask.heeds_pause:
            return looking_ahead.head(tasks, ask, beside)
        paused = [{"$match": paused_of([ask.queue])}]
        ready = queries.ready(ask) | beside
        found = list(tasks.quick.aggregate(queries.first_and(ready, ask.limit, tasks.quick.name, paused)))
        is_paused = found and queue_of(found[-1]["_id"]) == ask.queue
        return None if is_paused else Head(found, len(found) == ask.limit)


def but(ask: Ask, refused: Mapping[ObjectId, str]) -> dict[str, Any]:
    """Leave out of what is ready what was refused."""
    return {"_id": queries.ready(ask)["_id"] | {"$nin": [*ask.beside, *refused]}} if refused else {}


def told(refused: Mapping[ObjectId, str]) -> tuple[Refused, ...]:
    return tuple(Refused(id, said) for id, said in refused.items())


def _claim_one(tasks: Tasks, ask: Ask, ids: Sequence[ObjectId]) -> Claimed | None:
    """Claim the first of `ids` that is there; None when the server refuses it and does not say which of several."""
    # A task with one attempt is claimed with majority: a rolled-back claim would roll its count back too.
    # So is one of a group, which would run beside the next.
    once = {} if ask.durable else {"max_attempts": {"$gt": 1} | queries.NUMBER, "group_lock": {"$exists": False}}
    wanted = queries.told(ask) if ask.plain else queries.ready(ask) | queries.UNEXPIRED
    wanted |= {"_id": ids[0] if len(ids) == 1 else {"$in": list(ids)}} | once
    order = None if len(ids) == 1 else queries.CLAIM_ORDER
    try:
        with tasks.deadline():
            taken = _take_first(tasks, ask, wanted, order)
    except DRIVER_ERRORS as error:
        if is_refusal(error):
            return None if len(ids) > 1 else Claimed((), more=False, refused=(Refused(ids[0], short(error)),))
        if not is_unknown(error):
            raise translated(error, "claim a task", writing=True) from error
        taken = next(iter(read_own(tasks, ask, list(ids), error, durable=ask.durable).values()), None)
        if taken is None:
            raise claim_unknown(tasks, ask, ids, error) from error
    claims = (
        ()
        if taken is None
        else (
            claim_of(taken, claim_id=ask.claim_id, lease_s=ask.lease_of(taken.get("task")), attempt=taken["attempt"]),
        )
    )
    return Claimed(claims, more=False)


def _take_first(tasks: Tasks, ask: Ask, wanted: dict[str, Any], order: list[tuple[str, int]] | None) -> Document | None:
    """Claim the first of `wanted`; return it as it is then."""
    update = move.update(ask, plain=ask.plain)
    if ask.durable or not ask.plain:
        into = tasks.durable if ask.durable else tasks.quick
        return into.find_one_and_update(wanted, update, sort=order, hint=BY_ID, return_document=ReturnDocument.AFTER)
    # A bare command is not repeated by the driver: for that the server would note the statement in a row of the
    # session and store an image of the task, a tenth of its work, at every pickup. A lost reply is read back anyway.
    command: dict[str, Any] = {"findAndModify": tasks.quick.name, "query": wanted, "update": update, "new": True}
    command |= {"hint": dict(BY_ID), "writeConcern": {"w": 1}}
    if order is not None:
        command["sort"] = dict(order)
    taken: Document | None = tasks.quick.database.command(command, codec_options=tasks.quick.codec_options)["value"]
    return taken


def begun(tasks: Tasks, ask: Ask, obtained: list[Document]) -> list[Document]:
    """Add to tasks with a total time what their claim has written: by the server's clock it tells what is left. Trips:
    0 when there are none, else 1. Raises `ClaimUnknown`: without knowing it they must not start."""
    ids = [document["_id"] for document in obtained if "total_timeout_s" in document]
    if not ids:
        return obtained
    try:
        with tasks.deadline():
            found = tasks.quick.find(fence(ask.queue, ask.claim_id, ids), {"total_until": 1, "started_at": 1})
            clocks = {clock["_id"]: clock for clock in found}
    except DRIVER_ERRORS as error:
        raise claim_unknown(tasks, ask, [document["_id"] for document in obtained], error) from error
    return [document | clocks.get(document["_id"], {}) for document in obtained]


def _startable(found: list[Document], ask: Ask) -> list[Document]:
    """Leave out what could not start at once and must not wait here."""
    return [one for place, one in enumerate(found) if place < ask.slots or not move.is_delicate(one)]


def _claims(tasks: Tasks, ask: Ask, wanted: list[Document], mine: Sequence[ObjectId]) -> tuple[Claim, ...]:
    """Return the claims of those of `wanted` that were obtained. Raises and trips: as `begun`."""
    obtained = wanted if len(mine) == len(wanted) else _among(wanted, set(mine))
    return tuple(_claim(document, ask) for document in begun(tasks, ask, obtained))


def _claim(document: Document, ask: Ask) -> Claim:
    # The update was guarded by the attempt that was read, so one more is what it wrote.
    lease_s = ask.lease_of(document.get("task"))
    return claim_of(document, claim_id=ask.claim_id, lease_s=lease_s, attempt=document["attempt"] + 1)


def _among(wanted: list[Document], mine: set[ObjectId]) -> list[Document]:
    return [document for document in wanted if document["_id"] in mine]


def take(tasks: Tasks, ask: Ask, wanted: list[Document], refused: dict[ObjectId, str]) -> list[ObjectId]:
    """Claim what is still as it was read; return the ids obtained. What the server refuses is added to `refused`."""
    alike: dict[tuple[int, float | None, bool], list[ObjectId]] = defaultdict(list)
    keyed, plain = False, all(map(is_plain, wanted))
    for document in wanted:
        revision: float | None = 0
        if "revision" in document:  # by no other field can a task change while it waits
            keyed, revision = True, document["revision"] if is_number(document["revision"]) else None
        durable = ask.durable or move.is_delicate(document)
        alike[document["attempt"], revision, durable].append(document["_id"])
    mine: list[ObjectId] = []
    for (attempt, revision, durable), ids in alike.items():
        guard = move.guard(ask, attempt, plain=plain)
        if keyed and revision is not None:
            guard |= move.revision_guard(revision)
        try:
            mine.extend(_Taking(tasks, ask, guard, refused, durable, plain).take(ids))
        except StoreError as error:
            if not mine and not isinstance(error, OutcomeUnknown):
                raise
            # What was obtained before goes back too: one unknown outcome, one answer.
            every = [document["_id"] for document in wanted]
            raise claim_unknown(tasks, ask, every, error) from error
    return mine


class _Taking(msgspec.Struct, frozen=True):
    """Tasks that one statement can claim: what guards it and how it is written, whichever of them it is sent for."""

    tasks: Tasks
    ask: Ask
    guard: dict[str, Any]
    refused: dict[ObjectId, str]  # is added to
    durable: bool
    plain: bool

    def take(self, ids: list[ObjectId]) -> Sequence[ObjectId]:
        """Claim `ids`; return those obtained."""
        into = self.tasks.durable if self.durable else self.tasks.quick
        try:
            with self.tasks.deadline():
                taken = into.update_many(self.guard | {"_id": {"$in": ids}}, move.update(self.ask, plain=self.plain))
                if taken.matched_count == len(ids):
                    return ids
        except DRIVER_ERRORS as error:
            if is_refusal(error) and len(ids) == 1:
                self.refused[ids[0]] = short(error)
                return ()
            if is_refusal(error):
                return self._take_halves(ids)
            if not is_unknown(error):
                raise translated(error, "claim tasks", writing=True) from error
            own = read_own(self.tasks, self.ask, ids, error, durable=self.durable)
            if len(own) < len(ids):
                raise OutcomeUnknown(short(error)) from error
            return list(own)
        return read_held(self.tasks, self.ask, ids)

    def _take_halves(self, ids: list[ObjectId]) -> list[ObjectId]:
        """One of `ids` is refused, which ended the statement before the rest: claim by halves until it is alone."""
        mine = read_held(self.tasks, self.ask, ids)
        rest = [id for id in ids if id not in mine]
        middle = max(1, len(rest) // 2)
        try:
            for half in (rest[:middle], rest[middle:]):
                if half:
                    mine += self.take(half)
        except StoreError as error:
            if not mine:
                raise
            # What was obtained before must go back, whatever kind of error this is.
            raise OutcomeUnknown(short(error)) from error
        return mine


def read_held(tasks: Tasks, ask: Ask, ids: list[ObjectId]) -> list[ObjectId]:
    """Read which of `ids` are ours by now."""
    try:
        with tasks.deadline():
            return [document["_id"] for document in tasks.quick.find(fence(ask.queue, ask.claim_id, ids), {"_id": 1})]
    except DRIVER_ERRORS as error:
        # Some are ours, and which cannot be learnt.
        raise OutcomeUnknown(short(error)) from error


def read_own(
    tasks: Tasks, ask: Ask, ids: list[ObjectId], error: DriverError, *, durable: bool
) -> dict[ObjectId, Document]:
    """After a lost reply: what of `ids` is held under this claim. Raises `ClaimUnknown` when that cannot be read.

    A durable claim is read from what the majority has: one that may still be rolled back must not start.
    """
    held = tasks.committed if durable else tasks.quick
    try:
        with tasks.deadline():
            return {document["_id"]: document for document in held.find(fence(ask.queue, ask.claim_id, ids))}
    except DRIVER_ERRORS:
        raise claim_unknown(tasks, ask, ids, error) from error


def claim_unknown(tasks: Tasks, ask: Ask, ids: Sequence[ObjectId], error: BaseException) -> ClaimUnknown:
    return ClaimUnknown(ask.queue, ask.claim_id, tuple(ids), tasks.timeout_s, short(error))


def abandon(tasks: Tasks, unknown: ClaimUnknown) -> int:
    """See `Store.abandon`. Trips: 1."""
    release = settle_move.update(Settlement(unknown.ids[0], unknown.queue, unknown.claim_id, "release", frees=True))
    with writing("release an unknown claim"), tasks.deadline():
        held = fence(unknown.queue, unknown.claim_id, unknown.ids)
        return tasks.durable.update_many(held, release).modified_count


def extend(tasks: Tasks, claims: Sequence[Claim]) -> list[ObjectId]:
    """See `Store.extend`. Trips: 1, or 2 when something was lost."""
    alike: dict[tuple[str, bytes, float], list[ObjectId]] = defaultdict(list)
    for one in claims:
        alike[one.queue, one.claim_id, one.lease_s].append(one.id)
    statements = [
        UpdateMany(fence(queue, claim_id, ids), extend_move.update(lease_s))
        for (queue, claim_id, lease_s), ids in alike.items()
    ]
    # Repeating an extension is harmless, so an unknown outcome is simply tried again at the next beat.
    with reading("extend leases"), tasks.deadline():
        if tasks.durable.bulk_write(statements, ordered=False).matched_count == len(claims):
            return []
        return not_held(tasks, claims)


def renew(tasks: Tasks, claim: Claim) -> Renewed:
    """See `Store.renew`. Trips: 1."""
    with reading("extend a lease"), tasks.deadline():
        held = tasks.durable.find_one_and_update(
            fence(claim.queue, claim.claim_id, [claim.id]),
            extend_move.update(claim.lease_s),
            projection={"cancel_to": 1},
        )
    if held is None:
        return "lost"
    return "asked" if "cancel_to" in held else "held"


def not_held(tasks: Tasks, claims: Sequence[Claim]) -> list[ObjectId]:
    """Read which of `claims` are held no more."""
    ids = [one.id for one in claims]
    held = {
        (document["_id"], document.get("claim_id"))
        for document in tasks.quick.find({"_id": {"$in": ids}}, {"claim_id": 1})
    }
    return [one.id for one in claims if (one.id, one.claim_id) not in held]
