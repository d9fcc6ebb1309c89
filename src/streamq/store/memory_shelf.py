"""The steps of a limited claim in memory."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import ObjectId

from streamq.core.claim import Ask, claim_of
from streamq.core.document import DELAYED, TaskDocument
from streamq.core.limits import Limits, Rate, free_slots, slot_of_key
from streamq.core.moves import call_back, delay, expire, token
from streamq.core.moves import claim as move
from streamq.core.moves.claim import Place
from streamq.core.moves.token import Bucket
from streamq.store import limiting
from streamq.store.contract import Claimed
from streamq.store.limiting import Found, PutOff, Tokens

Documents = dict[ObjectId, TaskDocument]


class MemoryShelf:
    """See `limiting.Shelf`. `tell` is called with each document that others should hear of."""

    def __init__(
        self,
        documents: Documents,
        buckets: dict[str, Bucket],
        ask: Ask,
        now: datetime,
        tell: Callable[[TaskDocument], None],
    ) -> None:
        self._documents = documents
        self._buckets = buckets
        self._ask = ask
        self._now = now
        self._tell = tell

    def claim(self, limits: Limits) -> Claimed:
        """See `Store.claim`, for a queue with limits."""
        taken = limiting.claim(self, self._ask, limits)
        claims = tuple(
            claim_of(
                copy.deepcopy(self._documents[found["_id"]]),
                claim_id=self._ask.claim_id,
                lease_s=self._ask.lease_of(found.get("task")),
                attempt=found["attempt"],
                has_slot=limits.of_running,
            )
            for found in taken.found
        )
        return Claimed(claims, more=taken.more, again_s=taken.again_s)

    def head(self, limit: int) -> Sequence[Found]:
        """See `Shelf.head`."""
        documents = [one for one in self._documents.values() if not expire.is_over(one, self._now)]
        ready = [document for document in documents if move.is_ready(document, self._ask, self._now)]
        ready.sort(key=lambda document: (-document["priority"], document["seq"]))
        return ready[:limit]

    def slots(self) -> Sequence[int]:
        """See `Shelf.slots`."""
        return [document["slot"] for document in self._of_queue() if "slot" in document]

    def key_slots(self) -> Mapping[str, Sequence[int]]:
        """See `Shelf.key_slots`."""
        taken: dict[str, list[int]] = defaultdict(list)
        for document in self._of_queue():
            if "key_slot" in document:
                slot, key = slot_of_key(document["key_slot"])
                taken[key].append(slot)
        return taken

    def _of_queue(self) -> list[TaskDocument]:
        return [document for document in self._documents.values() if document["queue"] == self._ask.queue]

    def unhold(self, limit: int, taken: Mapping[str, Sequence[int]]) -> None:
        """See `Shelf.unhold`."""
        held_up: dict[str, list[TaskDocument]] = defaultdict(list)
        for document in sorted(self._of_queue(), key=lambda one: (-one["priority"], one["seq"])):
            if "held_up_by" in document and (self._ask.only is None or document["task"] in self._ask.only):
                held_up[document["held_up_by"]].append(document)
        for key, documents in held_up.items():
            for document in documents[: len(free_slots(limit, taken.get(key, ())))]:
                if document["status"] == DELAYED:
                    call_back.apply(document, self._now)
                    self._tell(document)

    def tokens(self, bucket: str, rate: Rate, wanted: int) -> Tokens:
        """See `Shelf.tokens`."""
        stored = self._buckets.setdefault(bucket, Bucket(_id=bucket))
        token.apply(stored, rate, wanted, self._now)
        return Tokens(stored["granted"], stored["tokens"])

    def give_back(self, bucket: str, rate: Rate, unused: int) -> None:
        """See `Shelf.give_back`."""
        token.apply_back(self._buckets[bucket], rate, unused)

    def put_off(self, tasks: Sequence[PutOff]) -> None:
        """See `Shelf.put_off`."""
        for one in tasks:
            document = self._documents[one.found["_id"]]
            delay.apply(document, one.delay_s, one.key, self._now)
            self._tell(document)

    def take(self, chosen: Sequence[tuple[Found, Place]]) -> set[Any]:
        """See `Shelf.take`: nobody else is there to be quicker."""
        for found, place in chosen:
            move.apply(self._documents[found["_id"]], self._ask, self._now, place)
        return {found["_id"] for found, _ in chosen}
