"""The indexes, as values: each names the query it serves."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Final

import msgspec

from streamq.core.document import BLOCKED, DELAYED, FAILED, READY, RUNNING, TERMINAL, UNSUCCESSFUL, WAITING
from streamq.core.features import Feature


class Index(msgspec.Struct, frozen=True):
    """One index. `serves` says which query it is for; `feature` what is in use where it is made (None: everywhere)."""

    name: str
    keys: tuple[tuple[str, int], ...]
    partial: dict[str, Any]
    serves: str
    expire_after_s: int | None = None
    unique: bool = False
    feature: Feature | None = None


INDEXES: Final = (
    Index(
        name="streamq_claim",
        # `status` although it is always the same: the server does not conclude it from the partial filter, so without
        # it the safety scan fetched every ready task instead of probing one key a queue.
        # `task` last: tasks of handlers unknown here are skipped in the index, without fetching a document.
        keys=(("queue", 1), ("status", 1), ("priority", -1), ("seq", 1), ("task", 1)),
        partial={"status": READY},
        serves="queries.ready: claiming examines as many keys as it returns, whatever waits or lies in the future; "
        "queries.behind: the safety scan probes one key a queue",
    ),
    Index(
        name="streamq_due",
        keys=(("due_at", 1),),
        partial={"status": DELAYED},
        serves="queries.due, queries.next_due, queries.due_and_next: the scheduler and the releaser",
    ),
    Index(
        name="streamq_lease",
        keys=(("lease_until", 1),),
        partial={"status": RUNNING},
        serves="queries.lease_ended, queries.next_lease_end: the scheduler",
    ),
    Index(
        name="streamq_slot",
        keys=(("queue", 1), ("slot", 1)),
        partial={"slot": {"$exists": True}},
        serves="queries.slots_taken; unique: a slot is given once. Only running tasks of limited queues are in it",
        unique=True,
        feature="limits",
    ),
    Index(
        name="streamq_key_slot",
        keys=(("queue", 1), ("key_slot", 1)),
        partial={"key_slot": {"$exists": True}},
        serves="queries.key_slots_taken; unique, so that a slot is given once",
        unique=True,
        feature="limits",
    ),
    Index(
        name="streamq_held_up",
        keys=(("queue", 1), ("held_up_by", 1), ("priority", -1), ("seq", 1)),
        partial={"held_up_by": {"$exists": True}},
        serves="queries.held_up: what waits for a slot of its key, in claim order; queries.keys_held_up",
        feature="limits",
    ),
    Index(
        name="streamq_blocked",
        keys=(("queue", 1), ("group", 1), ("seq", 1)),
        partial={"status": BLOCKED},
        serves="queries.oldest: whose turn is next in a group; queries.blocked: the sweep, page by page",
        feature="followers",
    ),
    Index(
        name="streamq_group",
        keys=(("queue", 1), ("group_lock", 1)),
        partial={"group_lock": {"$exists": True}},
        serves="queries.turns; unique, so that it is one task's turn at a time",
        unique=True,
        feature="followers",
    ),
    Index(
        name="streamq_blocked_by",
        keys=(("blocked_by", 1),),
        partial={"status": BLOCKED, "blocked_by": {"$exists": True}},
        serves="queries.children: the tasks that wait for one that has ended",
        feature="followers",
    ),
    Index(
        name="streamq_follow_up",
        keys=(("follow_up", 1),),
        partial={"follow_up": {"$exists": True}},
        serves="queries.marked: tasks whose followers are to be looked at",
        feature="followers",
    ),
    Index(
        name="streamq_remove",
        keys=(("remove_at", 1),),
        partial={"status": {"$in": list(TERMINAL)}},
        serves="the server's own removal of tasks whose retention has ended",
        expire_after_s=0,
    ),
    Index(
        name="streamq_unique",
        keys=(("queue", 1), ("unique_lock", 1)),
        # Tasks without a key never enter it, those with one leave it only at their end.
        partial={"unique_lock": {"$exists": True}},
        serves="putting: one task a unique key, whoever puts it; queries.twins: which task has it",
        unique=True,
    ),
    Index(
        name="streamq_expire",
        keys=(("expires_at", 1),),
        # Tasks without an expiry never enter it, others leave it at their first claim.
        partial={"status": {"$in": list(WAITING)}, "attempt": 0, "expires_at": {"$exists": True}},
        serves="queries.expired, queries.next_expiry: the scheduler",
        feature="expiry",
    ),
    Index(
        name="streamq_lifetime",
        keys=(("lifetime_until", 1),),
        partial={"lifetime_until": {"$exists": True}},
        serves="queries.outlived, queries.next_lifetime_end: the scheduler; and the server's own removal, once a "
        "minute, should no scheduler run",
        expire_after_s=0,
        feature="lifetime",
    ),
    # For people who look: `_id` behind the value, so that pages go on in the index. A plain task enters none of them.
    Index(
        name="streamq_tag",
        keys=(("tag", 1), ("_id", 1)),
        partial={"tag": {"$exists": True}},
        serves="queries.beyond a search by tag; entered at the put of a task that has one, and left with the document",
        feature="search",
    ),
    Index(
        name="streamq_unique_key",
        keys=(("unique_key", 1), ("_id", 1)),
        partial={"unique_key": {"$exists": True}},
        serves="queries.beyond a search by unique key, also of tasks that have ended: those hold no unique_lock",
        feature="search",
    ),
    Index(
        name="streamq_unsuccessful",
        keys=(("status", 1), ("_id", 1)),
        # Not by the type of the error: an index of an array would be written at every failed attempt.
        partial={"status": {"$in": list(UNSUCCESSFUL)}},
        serves="queries.beyond a search by these statuses, and within it by whatever else, past all that has succeeded",
    ),
)


def needed(features: Set[Feature]) -> tuple[Index, ...]:
    """Return the indexes of a tasks collection in which `features` are in use."""
    return tuple(index for index in INDEXES if index.feature is None or index.feature in features)


DEAD_INDEXES: Final = (
    Index(
        name="streamq_failed",
        keys=(("finished_at", 1),),
        partial={"status": FAILED},
        serves="queries.dead: what moves to the collection for dead letters; made for those who have one",
    ),
)

LETTER_INDEXES: Final = (
    Index(
        name="streamq_follow_up",
        keys=(("follow_up", 1),),
        partial={"follow_up": {"$exists": True}},
        serves="queries.marked_dead: dead letters whose followers are to be looked at",
    ),
    Index(
        name="streamq_lifetime",
        keys=(("lifetime_until", 1),),
        partial={"lifetime_until": {"$exists": True}},
        serves="the server's own removal of dead letters whose lifetime has ended",
        expire_after_s=0,
    ),
)
"""The indexes of the collection for dead letters."""

META_INDEXES: Final = (
    Index(
        name="streamq_meta_remove",
        keys=(("remove_at", 1),),
        partial={"remove_at": {"$exists": True}},
        serves="the server's own removal of what is not needed any more in the meta collection",
        expire_after_s=0,
    ),
)
