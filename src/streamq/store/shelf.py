"""The steps of a limited claim on the real server."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from streamq.core import queries
from streamq.core.claim import Ask, claim_of, is_number, is_plain
from streamq.core.document import DELAYED, READY
from streamq.core.limits import Limits, Rate, free_slots, slot_of_key
from streamq.core.moves import call_back, delay, token
from streamq.core.moves import claim as move
from streamq.core.moves.claim import Place
from streamq.errors import OutcomeUnknown
from streamq.store import claiming, limiting
from streamq.store.collections import Document, Tasks
from streamq.store.contract import Claimed
from streamq.store.faults import (
    DRIVER_ERRORS,
    DUPLICATE_KEY,
    MAYBE_APPLIED,
    PASSING,
    SHOWN,
    is_unknown,
    reading,
    translated,
    writing,
)
from streamq.store.limiting import Found, PutOff, Tokens


def claim(tasks: Tasks, ask: Ask, limits: Limits) -> Claimed:
    """See `Store.claim`, for a queue with limits."""
    shelf = MongoShelf(tasks, ask, limits)
    taken = limiting.claim(shelf, ask, limits)
    claims = tuple(
        claim_of(
            found,
            claim_id=ask.claim_id,
            lease_s=ask.lease_of(found.get("task")),
            attempt=found["attempt"] + 1,
            has_slot=limits.of_running,
        )
        for found in claiming.begun(tasks, ask, [dict(found) for found in taken.found])
    )
    return Claimed(claims, more=taken.more, refused=claiming.told(shelf.refused), again_s=taken.again_s)


class MongoShelf:
    """See `limiting.Shelf`. Slots are given with majority: one that is rolled back would be given twice."""

    def __init__(self, tasks: Tasks, ask: Ask, limits: Limits) -> None:
        self._tasks = tasks
        self._ask = ask
        self._limits = limits
        self.refused: dict[ObjectId, str] = {}

    def head(self, limit: int) -> Sequence[Found]:
        """See `Shelf.head`."""
        with reading("find ready tasks"), self._tasks.deadline():
            ready = queries.ready(self._ask) | claiming.but(self._ask, self.refused) | queries.UNEXPIRED
            return list(self._tasks.quick.find(ready).sort(queries.CLAIM_ORDER).limit(limit))

    def slots(self) -> Sequence[int]:
        """See `Shelf.slots`."""
        return [row["slot"] for row in self._indexed("slot", queries.slots_taken(self._ask.queue))]

    def key_slots(self) -> Mapping[str, Sequence[int]]:
        """See `Shelf.key_slots`."""
        taken: dict[str, list[int]] = defaultdict(list)
        for row in self._indexed("key_slot", queries.key_slots_taken(self._ask.queue)):
            slot, key = slot_of_key(row["key_slot"])
            taken[key].append(slot)
        return taken

    def _indexed(self, field: str, wanted: dict[str, Any]) -> list[Document]:
        with reading("read which slots are taken"), self._tasks.deadline():
            return list(self._tasks.quick.find(wanted, {"_id": 0, field: 1}))

    def unhold(self, limit: int, taken: Mapping[str, Sequence[int]]) -> None:
        """See `Shelf.unhold`. Trips: 1, and 2 for each key with a free slot."""
        queue, only = self._ask.queue, queries.known(self._ask)
        with writing("bring back tasks that waited for a slot"), self._tasks.deadline():
            for key in self._tasks.quick.distinct("held_up_by", queries.keys_held_up(queue)):
                room = len(free_slots(limit, taken.get(key, ())))
                if room:
                    held_up = self._tasks.quick.find(queries.held_up(queue, key) | only, {"status": 1})
                    first = held_up.sort(queries.CLAIM_ORDER).limit(room)
                    ids = [row["_id"] for row in first if row["status"] == DELAYED]
                    if ids:
                        away = queries.held_up(queue, key) | {"_id": {"$in": ids}, "status": DELAYED}
                        self._tasks.durable.update_many(away, call_back.update())

    def tokens(self, bucket: str, rate: Rate, wanted: int) -> Tokens:
        """See `Shelf.tokens`. A reply that is lost costs the tokens: the rate is kept."""
        with writing("take tokens of a rate"), self._tasks.deadline():
            while True:
                try:
                    after = self._tasks.buckets.find_one_and_update(
                        {"_id": bucket}, token.update(rate, wanted), upsert=True, return_document=ReturnDocument.AFTER
                    )
                    assert after is not None  # it upserts
                    return Tokens(int(after["granted"]), float(after["tokens"]))
                except DuplicateKeyError:
                    continue  # another claimer has just made the bucket

    def give_back(self, bucket: str, rate: Rate, unused: int) -> None:
        """See `Shelf.give_back`."""
        with writing("give tokens of a rate back"), self._tasks.deadline():
            self._tasks.buckets.update_one({"_id": bucket}, token.back(rate, unused))

    def put_off(self, tasks: Sequence[PutOff]) -> None:
        """See `Shelf.put_off`."""
        statements = [
            UpdateOne(
                {"_id": one.found["_id"], "queue": self._ask.queue, "status": READY},
                delay.update(one.delay_s, one.key),
            )
            for one in tasks
        ]
        with writing("put tasks off that a limit holds up"), self._tasks.deadline():
            self._tasks.durable.bulk_write(statements, ordered=False)

    def take(self, chosen: Sequence[tuple[Found, Place]]) -> set[Any]:
        """See `Shelf.take`."""
        if not self._limits.of_running:
            return set(claiming.take(self._tasks, self._ask, [dict(found) for found, _ in chosen], self.refused))
        ids = [found["_id"] for found, _ in chosen]
        statements = [
            UpdateOne(self._guard(found) | {"_id": found["_id"]}, move.update(self._ask, place))
            for found, place in chosen
        ]
        try:
            with self._tasks.deadline():
                if self._tasks.durable.bulk_write(statements, ordered=False).matched_count == len(chosen):
                    return set(ids)
        except BulkWriteError as error:
            self._require_slots_only(error, ids)
        except DRIVER_ERRORS as error:
            if not is_unknown(error):
                raise translated(error, "claim tasks", writing=True) from error
            own = claiming.read_own(self._tasks, self._ask, ids, error, durable=True)
            if len(own) < len(ids):
                raise claiming.claim_unknown(self._tasks, self._ask, ids, error) from error
            return set(own)
        try:
            return set(claiming.read_held(self._tasks, self._ask, ids))
        except OutcomeUnknown as error:
            raise claiming.claim_unknown(self._tasks, self._ask, ids, error) from error

    def _guard(self, found: Found) -> dict[str, Any]:
        guard = move.guard(self._ask, found["attempt"], plain=is_plain(found))
        return guard | move.revision_guard(found["revision"]) if is_number(found.get("revision")) else guard

    def _require_slots_only(self, error: BulkWriteError, ids: list[ObjectId]) -> None:
        """A slot that somebody else took meanwhile refuses its one task, which is looked at again; what the server
        refuses is passed over; anything else makes the whole unknown."""
        details = error.details or {}
        others = [one for one in details.get("writeErrors", ()) if one.get("code") != DUPLICATE_KEY]
        if details.get("writeConcernErrors") or any(one.get("code") in MAYBE_APPLIED | PASSING for one in others):
            # Some may be held under this claim by now: they go back as after an unknown outcome.
            raise claiming.claim_unknown(self._tasks, self._ask, ids, error) from error
        for one in others:
            self.refused[ids[one["index"]]] = f"{str(one.get('errmsg'))[:SHOWN]} (code {one.get('code')})"
