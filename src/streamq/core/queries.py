"""Filters that only read, and the reads themselves as values. What an update needs stands in `moves`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from datetime import datetime
from typing import Any, Final

from bson import ObjectId

from streamq.core.claim import CHANGED_BY, ENDS_BY, INT32, Ask, Past
from streamq.core.document import BLOCKED, DELAYED, FAILED, READY, RUNNING, STATUSES, TERMINAL, WAITING
from streamq.core.features import FEATURES, Feature
from streamq.core.schedule import PREFIX
from streamq.core.wakes import CLAIMED_BY

CLAIM_ORDER: Final = [("priority", -1), ("seq", 1)]
"""Higher priority first, then the order of storing. Served by the index `streamq_claim`."""

NO_ARRAY: Final = {"$not": {"$type": "array"}}
"""The server compares an array element by element: `{"queue": "q"}` and `{"$type": "date"}` match arrays too."""

NUMBER: Final = {"$type": ["int", "long", "double"]} | NO_ARRAY
"""What both the server and Python can count with."""

COUNTS: Final = {"$gte": 0, "$lt": INT32 - 1} | NUMBER
"""How often a task that may be claimed has been."""

DATE: Final = {"$type": "date"} | NO_ARRAY


EXPIRED_BY_NOW: Final[dict[str, Any]] = {
    "attempt": 0,
    "expires_at": DATE,
    "$expr": {"$lte": ["$expires_at", "$$NOW"]},
}
"""What was to be started before now and has not been, by the server's clock."""

UNEXPIRED: Final[dict[str, Any]] = {"$nor": [EXPIRED_BY_NOW]}
"""Leaves out what has expired, also while the timer that ends it is behind. Not part of `ready`: there it cost 0.8 µs a
task found (a thirtieth of a claim), which tasks without an expiry must not pay."""

PLAIN_NEW: Final[dict[str, Any]] = {"attempt": 0} | {name: {"$exists": False} for name in (*ENDS_BY, *CHANGED_BY)}
"""`claim.is_plain_new`, asked of the server, of a task whose counters were seen to be numbers."""


def ready(ask: Ask) -> dict[str, Any]:
    """Match what `ask` may claim.

    A document whose counters somebody made no numbers is no task, nor is one whose id is a document, which no set can
    hold: claiming it would stop the whole queue. It stays where it is, for people to see.

    What has expired and is still ready is among them: the guard of the claim, or `UNEXPIRED`, leaves it out.
    """
    found: dict[str, Any] = {
        "status": READY,
        "queue": {"$eq": ask.queue} | NO_ARRAY,
        "attempt": COUNTS,
        "max_attempts": NUMBER,
        "_id": {"$not": {"$type": "object"}},
    }
    found |= known(ask)
    if ask.ids is not None:
        found["_id"] = {"$in": list(ask.ids)}
    if ask.beside:
        found["_id"] = found["_id"] | {"$nin": list(ask.beside)}
    if ask.slots <= 0:
        # Nothing could start now: take only what may wait here without risk.
        found["max_attempts"] = {"$gt": 1} | NUMBER
        found["group_lock"] = {"$exists": False}
    return found


def told(ask: Ask) -> dict[str, Any]:
    """Match what `ask` may claim of tasks that it has heard all about, but for their ids: see `Ask.plain`. What `ready`
    checks of what is stored took the server a fifth of such a claim's time."""
    return {"status": READY, "queue": ask.queue} | PLAIN_NEW


def first_and(
    ready: Mapping[str, Any], limit: int, collection: str, beside: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Build the aggregation that reads the first `limit` of `ready` in claim order, and after them what `beside` finds:
    one trip for both, and the same plan as by a find."""
    return [
        {"$match": ready},
        {"$sort": dict(CLAIM_ORDER)},
        {"$limit": limit},
        {"$unionWith": {"coll": collection, "pipeline": beside}},
    ]


def known(ask: Ask) -> dict[str, Any]:
    """Match the tasks whose handlers the asker knows."""
    return {} if ask.only is None else {"task": {"$in": list(ask.only)} | NO_ARRAY}


def between(past: Past, until: Past | None) -> dict[str, Any]:
    """Match what comes behind `past` in the claim order, up to and with `until` (None: to the end).

    Written as ranges of the index `streamq_claim`. A task whose place somebody made something else than a number and a
    timestamp is in none.
    """
    behind = {"$gt": past.seq}
    beside = {"priority": past.priority, "seq": past.seq, "task": _named_behind(past.task)}
    if until is None:
        return {"$or": [beside, {"priority": past.priority, "seq": behind}, {"priority": {"$lt": past.priority}}]}
    last = {"priority": until.priority, "seq": until.seq, "task": _named_until(until.task)}
    if (until.priority, until.seq) == (past.priority, past.seq):
        return {"$and": [beside, last]}
    if until.priority == past.priority:
        return {"$or": [beside, {"priority": past.priority, "seq": behind | {"$lt": until.seq}}, last]}
    return {
        "$or": [
            beside,
            {"priority": past.priority, "seq": behind},
            {"priority": {"$lt": past.priority, "$gt": until.priority}},
            {"priority": until.priority, "seq": {"$lt": until.seq}},
            last,
        ]
    }


def _named_behind(task: str | None) -> dict[str, Any]:
    return {"$gte": ""} if task is None else {"$gt": task}


def _named_until(task: str | None) -> dict[str, Any]:
    return {"$eq": None} if task is None else {"$not": {"$gt": task}}


def slots_taken(queue: str) -> dict[str, Any]:
    """Match the running tasks of `queue` that hold a slot of it: read `slot`, which the index holds."""
    return {"queue": queue, "slot": {"$gte": 0}}


def key_slots_taken(queue: str) -> dict[str, Any]:
    """Match the running tasks of `queue` that hold a slot of their key: read `key_slot`, which the index holds."""
    return {"queue": queue, "key_slot": {"$gte": ""}}


def held_up(queue: str, key: str) -> dict[str, Any]:
    """Match the tasks of `queue` that wait for a slot of `key`: delayed, or ready because there is one."""
    return {"queue": queue, "held_up_by": {"$eq": key}}


def keys_held_up(queue: str) -> dict[str, Any]:
    """Match tasks of `queue` that wait for a slot of any key: asked for distinct keys, the server probes the index once
    for each, however many tasks wait. (A condition on the status would make it read them all.)"""
    return {"queue": queue, "held_up_by": {"$gte": ""}}


def behind(queues: Iterable[str]) -> dict[str, Any]:
    """Match ready tasks of `queues`: asked for distinct queues, the server probes the index once for each."""
    return {"status": READY, "queue": {"$in": list(queues)}}


def twins(queue: str, locks: Iterable[bytes]) -> dict[str, Any]:
    """Match the tasks of `queue` that have one of the unique keys. Served by the index `streamq_unique`."""
    return {"queue": queue, "unique_lock": {"$in": list(locks)}}


def waiting(queue: str) -> dict[str, Any]:
    """Match the ready tasks of `queue`, whoever may claim them."""
    return {"status": READY, "queue": queue}


def all_ready() -> dict[str, Any]:
    """Match every ready task: asked for distinct queues, the server goes from queue to queue in the index."""
    return {"status": READY, "queue": {"$gte": ""}}


def beyond(wanted: Mapping[str, Any], after: Any, operator: str) -> dict[str, Any]:
    """Match what `wanted` does, beyond the id `after` (None: from the beginning); `operator` is `$lt` or `$gt`.

    By `$expr`, which compares ids of different types too: `{"_id": {"$lt": …}}` stops at the end of one type.
    """
    return dict(wanted) if after is None else {"$and": [wanted, {"$expr": {operator: ["$_id", {"$literal": after}]}}]}


def dead() -> dict[str, Any]:
    """Match tasks that failed where they are, and that nothing waits for any more: what is to be moved to the
    collection for dead letters. Served by the index `streamq_failed`."""
    return {"status": FAILED, "follow_up": {"$exists": False}}


def ended_before(older_than_s: float) -> dict[str, Any]:
    """Match what ended longer than so many seconds ago, by the server's clock; 0: whatever has ended."""
    if older_than_s <= 0:
        return {}
    before = {"$subtract": ["$$NOW", round(older_than_s * 1000)]}
    return {"finished_at": DATE, "$expr": {"$lte": ["$finished_at", before]}}


def still_ready(ids: Iterable[ObjectId]) -> dict[str, Any]:
    """Match those of `ids` that wait to be claimed."""
    return {"_id": {"$in": list(ids)}, "status": READY}


def due() -> dict[str, Any]:
    """Match delayed tasks whose time has come, by the server's clock.

    `$lte` inside `$expr` also matches missing and non-date values: hence the `$type`.
    """
    return {"status": DELAYED, "due_at": DATE, "$expr": {"$lte": ["$due_at", "$$NOW"]}}


def expired() -> dict[str, Any]:
    """Match tasks that wait, have not been started, and should have been by now."""
    return {"status": {"$in": list(WAITING)}} | EXPIRED_BY_NOW


def outlived() -> dict[str, Any]:
    """Match tasks whose lifetime has ended, whatever their status."""
    return {"lifetime_until": DATE, "$expr": {"$lte": ["$lifetime_until", "$$NOW"]}}


SEEN_TO: Final[dict[str, Any]] = {"$nor": [{"status": {"$in": list(TERMINAL)}, "follow_up": {"$exists": True}}]}
"""Leaves out ended tasks whose followers have yet to learn how they ended: removed before, they would be taken for
tasks that did not succeed."""


def lease_ended() -> dict[str, Any]:
    """Match running tasks whose lease has ended, by the server's clock."""
    return {"status": RUNNING, "lease_until": DATE, "$expr": {"$lte": ["$lease_until", "$$NOW"]}}


MARKED: Final = {
    "_id": 1,
    "status": 1,
    "finished_at": 1,
    "has_children": 1,
    "blocked_by": 1,
    "on_parent_failure": 1,
    "follow_up": 1,
    "queue": 1,
    "group": 1,
}
"""What is read of marked tasks."""

SWEPT: Final = {"_id": 1, "blocked_by": 1, "on_parent_failure": 1, "queue": 1, "group": 1, "seq": 1}
SWEPT_BY: Final = "streamq_blocked"
"""What a sweep reads, and the index by which it goes through all blocked tasks page by page."""


UNMARKED: Final = {"follow_up": {"$exists": False}}
"""What nobody waits for: a task whose children have not learnt of its end is not to be removed."""


def marked() -> dict[str, Any]:
    """Match tasks whose followers, or whose own parents, are to be looked at. What has no status of ours stays as it
    is."""
    return {"follow_up": {"$exists": True}, "status": {"$in": list(STATUSES)} | NO_ARRAY}


def marked_dead() -> dict[str, Any]:
    """Match the dead letters whose followers are to be looked at."""
    return {"status": FAILED, "follow_up": {"$exists": True}}


def marked_ends(latest: datetime | None) -> dict[str, Any]:
    """Match tasks that carry the mark of an end which came not after `latest` (None: which has no date that can be
    read): one that was requeued since and has ended again has a mark of its own."""
    ended = {"follow_up": {"$exists": True}, "status": {"$in": list(TERMINAL)}}
    return ended if latest is None else ended | {"finished_at": {"$lte": latest}}


def marked_still(ids: Iterable[ObjectId], mark: Any) -> dict[str, Any]:
    """Match those of `ids` that carry a mark which is not that of an end, as it was read: one that was marked again
    since is to be looked at again."""
    return {"_id": {"$in": list(ids)}, "follow_up": mark, "status": {"$nin": list(TERMINAL)}}


def children(parents: Iterable[ObjectId]) -> dict[str, Any]:
    """Match tasks that wait for one of `parents`."""
    return {"status": BLOCKED, "blocked_by": {"$in": list(parents), "$exists": True}}


def next_of(queue: str, group: str) -> dict[str, Any]:
    """Match what waits for its turn in a group."""
    return {"status": BLOCKED, "queue": {"$eq": queue}, "group": {"$eq": group}}


def blocked() -> dict[str, Any]:
    """Match tasks that wait for others."""
    return {"status": BLOCKED}


def turns(queue: str, groups: Iterable[str]) -> dict[str, Any]:
    """Match the tasks whose turn it is in `groups`."""
    return {"queue": queue, "group_lock": {"$in": list(groups)}}


def oldest(queue: str, group: str) -> list[dict[str, Any]]:
    """Find the first of a group among those that wait (at most one row)."""
    return [
        {"$match": next_of(queue, group)},
        {"$sort": {"seq": 1}},
        {"$limit": 1},
        {"$project": {"blocked_by": 1}},
    ]


def unmarked_parents(ids: Iterable[ObjectId]) -> dict[str, Any]:
    """Match those of `ids` whose ends would not be noticed for their children's sake."""
    return {"_id": {"$in": list(ids)}, "status": {"$nin": list(TERMINAL)}, "has_children": {"$ne": True}}


def next_instant(field: str, among: dict[str, Any]) -> list[dict[str, Any]]:
    """Build the aggregation that tells in how many ms the earliest `field` of those `among` comes (at most one row).

    The server subtracts: a client never compares its clock with a stored date.
    """
    return [
        {"$match": among | {field: DATE}},
        {"$sort": {field: 1}},
        {"$limit": 1},
        {"$project": {"_id": 0, "in_ms": {"$subtract": [f"${field}", "$$NOW"]}}},
    ]


def next_due() -> list[dict[str, Any]]:
    """In how many ms the earliest delayed task is due."""
    return next_instant("due_at", {"status": DELAYED})


def due_and_next(limit: int, *, whole: bool) -> list[dict[str, Any]]:
    """Read the first `limit` delayed tasks: those that are due (`whole`, or who may claim them), and of the others
    in how many ms they are (`in_ms`, without an `_id`)."""
    told: Any = "$$ROOT" if whole else {name: f"${name}" for name in ("_id", "queue", *CLAIMED_BY)}
    ahead = {"in_ms": {"$subtract": ["$due_at", "$$NOW"]}}
    return [
        # One read: a second one for what is ahead, by `$unionWith`, costs the server as much again (0.3 of 0.55 ms).
        {"$match": {"status": DELAYED, "due_at": DATE}},
        {"$sort": {"due_at": 1}},
        {"$limit": limit},
        {"$replaceWith": {"$cond": [{"$lte": ["$due_at", "$$NOW"]}, told, ahead]}},
    ]


def overdue(limit: int) -> list[dict[str, Any]]:
    """Read the `ids` of the first `limit` that are due, a row for each queue (`_id`)."""
    return [
        {"$match": due()},
        {"$sort": {"due_at": 1}},
        {"$limit": limit},
        {"$group": {"_id": "$queue", "ids": {"$push": "$_id"}}},
    ]


def next_lease_end() -> list[dict[str, Any]]:
    """In how many ms the earliest lease ends."""
    return next_instant("lease_until", {"status": RUNNING})


def next_expiry() -> list[dict[str, Any]]:
    """In how many ms the first of those that have not been started expires."""
    return next_instant("expires_at", {"status": {"$in": list(WAITING)}, "attempt": 0})


def next_lifetime_end() -> list[dict[str, Any]]:
    """In how many ms the earliest lifetime ends."""
    return next_instant("lifetime_until", {})


def first_mark(among: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Whether any task (of those `among`) is marked: then it is due now (at most one row)."""
    return [
        {"$match": marked() if among is None else among},
        {"$limit": 1},
        {"$project": {"_id": 0, "in_ms": {"$literal": 0}}},
    ]


def outlook(
    collection: str, features: Set[Feature] = FEATURES, dead: str | None = None, in_use: str | None = None
) -> list[dict[str, Any]]:
    """Build the aggregation that tells of each kind of what the scheduler sees to in how many ms the first is due: rows
    of `of` and `in_ms`, none of a kind of which there is nothing. One trip instead of one a kind: an idle worker looks
    once in each lease.

    `features` are those that have their indexes; of others nothing is asked. `dead` names the collection for dead
    letters, if there is one, `in_use` the one that holds the features in use (rows of `feature`).
    """
    kinds = {"due": next_due(), "lease": next_lease_end()}
    if "expiry" in features:
        kinds["expiry"] = next_expiry()
    if "lifetime" in features:
        kinds["lifetime"] = next_lifetime_end()
    if "followers" in features:
        kinds["mark"] = first_mark()
    first, *others = [[*stages, {"$set": {"of": kind}}] for kind, stages in kinds.items()]
    also = [(collection, stages) for stages in others]
    if dead is not None:
        also.append((dead, [*first_mark(marked_dead()), {"$set": {"of": "mark"}}]))
    if in_use is not None:
        also.append((in_use, [{"$match": features_in_use()}, {"$project": {"_id": 0, "feature": "$_id"}}]))
    return first + [{"$unionWith": {"coll": name, "pipeline": stages}} for name, stages in also]


def features_in_use() -> dict[str, Any]:
    """Match the documents that tell which features are in use, in the collection for these."""
    return {"_id": {"$in": sorted(FEATURES)}}


def schedules(ids: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Read schedules of the meta collection (those of `ids`, else all by a range of the `_id` index), each with the
    server's time beside it in `now`."""
    wanted: dict[str, Any] = {"$gte": PREFIX, "$lt": "schedule;"} if ids is None else {"$in": list(ids)}
    return [{"$match": {"_id": wanted}}, {"$sort": {"_id": 1}}, {"$addFields": {"now": "$$NOW"}}]


def has_not_ended(id: ObjectId) -> dict[str, Any]:
    """Match task `id` while it has not ended: what the next slot of a schedule that must not overlap waits out."""
    return {"_id": id, "status": {"$in": [one for one in STATUSES if one not in TERMINAL]}}


def in_order(counted: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Sort counts: queues by name, statuses in the order of a task's life, so that they read the same each time."""
    places: dict[str, int] = {status: place for place, status in enumerate(STATUSES)}
    return {
        queue: dict(sorted(counted[queue].items(), key=lambda one: places.get(one[0], len(places))))
        for queue in sorted(counted)
    }


def counts(*fields: str) -> list[dict[str, Any]]:
    """Count tasks per queue and status, and per `fields`. Rows of members have no status and are left out."""
    return [
        {"$match": {"status": {"$exists": True}}},
        {"$group": {"_id": {name: f"${name}" for name in ("queue", "status", *fields)}, "count": {"$sum": 1}}},
    ]
