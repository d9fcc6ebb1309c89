"""What came of it: every task that was put, looked up in the database, and the figures drawn from that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import msgspec
from bson import ObjectId

from streamq.core.document import SUCCEEDED, TERMINAL, TaskDocument
from streamq.demo.census import QUEUE, Census, Module

Way = Literal["singly", "delayed", "bulk"]


class Put(msgspec.Struct, frozen=True):
    """One put, as its caller remembers it. `answer_s`: from its call to its result, when that was waited for."""

    path: str
    way: Way
    delay_s: float = 0.0
    answer_s: float | None = None


class Failure(msgspec.Struct, frozen=True):
    """A task that failed for good."""

    path: str
    attempts: int
    error: str


class Tally(msgspec.Struct, frozen=True):
    """All figures of the report; times in seconds.

    `pickup_s` holds, for each way of putting, the times from the put's call (of delayed ones: from when they were due)
    to the handler's first line, of tasks that succeeded at their first attempt; `retried` counts the others.
    """

    put: int
    statuses: Mapping[str, int]
    missing: int
    unended: int
    counted: int
    modules: tuple[Module, ...]
    failures: tuple[Failure, ...]
    pickup_s: Mapping[Way, list[float]]
    answer_s: list[float]
    retried: int
    bulk: int
    bulk_s: float

    @property
    def is_complete(self) -> bool:
        """Say whether every task put is stored in a terminal status, and the counts add up."""
        return self.missing == 0 and self.unended == 0 and self.counted == self.put == sum(self.statuses.values())


async def tally_of(census: Census, puts: Mapping[ObjectId, Put], bulk_s: float) -> Tally:
    """Read every task back and compare with what was put."""
    documents = await census.app.find(queue=QUEUE, limit=len(puts) + 1)  # one more than there may be
    counts = (await census.app.counts()).get(QUEUE, {})
    stored = {document["_id"]: document for document in documents}
    mine = {id: stored[id] for id in puts if id in stored}
    done = {id: census.module_of(one) for id, one in mine.items() if one["status"] == SUCCEEDED}
    pickup_s: dict[Way, list[float]] = {"singly": [], "delayed": [], "bulk": []}
    for id, module in done.items():
        if mine[id]["attempt"] == 1:
            pickup_s[puts[id].way].append(module.picked_up_s - puts[id].delay_s)
    return Tally(
        put=len(puts),
        statuses=Counter(one["status"] for one in mine.values()),
        missing=len(puts) - len(mine),
        unended=sum(one["status"] not in TERMINAL for one in mine.values()),
        counted=sum(counts.values()),
        modules=tuple(done.values()),
        failures=tuple(_failure(puts[id].path, one) for id, one in mine.items() if one["status"] != SUCCEEDED),
        pickup_s=pickup_s,
        answer_s=[one.answer_s for one in puts.values() if one.answer_s is not None],
        retried=sum(mine[id]["attempt"] > 1 for id in done),
        bulk=sum(one.way != "singly" for one in puts.values()),
        bulk_s=bulk_s,
    )


def _failure(path: str, document: TaskDocument) -> Failure:
    errors = document.get("errors") or []
    error = f"{errors[-1]['type']}: {errors[-1]['message']}" if errors else document["status"]
    return Failure(path, document["attempt"], error)
