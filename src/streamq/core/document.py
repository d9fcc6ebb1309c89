"""The stored task: its field names and statuses, spelled once.

Here: the shape of what is stored. Not here: which status may follow which (`transitions`), what an update
writes (`moves`), what a query asks (`queries`).

All tasks of all queues share one collection. Rows with a `kind` (members: see `member`) live in the same
collection so that one change stream hears of everything; they have no `status`, which keeps them out of every
partial index and listing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal, TypedDict

from bson import ObjectId
from bson.timestamp import Timestamp

Status = Literal["delayed", "blocked", "ready", "running", "succeeded", "failed", "cancelled", "expired"]

DELAYED: Final = "delayed"
BLOCKED: Final = "blocked"
READY: Final = "ready"
RUNNING: Final = "running"
SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
EXPIRED: Final = "expired"

STATUSES: Final[tuple[Status, ...]] = (DELAYED, BLOCKED, READY, RUNNING, SUCCEEDED, FAILED, CANCELLED, EXPIRED)
WAITING: Final[tuple[Status, ...]] = (BLOCKED, DELAYED, READY)
TERMINAL: Final[tuple[Status, ...]] = (SUCCEEDED, FAILED, CANCELLED, EXPIRED)
UNSUCCESSFUL: Final[tuple[Status, ...]] = (FAILED, CANCELLED, EXPIRED)

SCHEMA_VERSION: Final = 1
ERRORS_KEPT: Final = 10
"""How many errors a task keeps, newest last. Chosen freely: enough to see a pattern, small beside the payload."""

ASSIGN_SEQ: Final = Timestamp(0, 0)
"""In a top-level field of an inserted document the server replaces this by a timestamp that strictly increases."""


class StoredError(TypedDict):
    """One failed attempt as it is kept on the task."""

    attempt: int
    type: str
    message: str
    traceback: str
    at: datetime
    worker: str


class StoredProgress(TypedDict):
    """How far a task is, as its holder last said."""

    value: float
    note: str
    at: datetime


class TaskDocument(TypedDict, total=False):
    """One document of the tasks collection. Absent rather than null where a partial index wants it.

    Unknown fields are kept and ignored, so that a newer streamq may write beside an older one.
    """

    _id: ObjectId
    v: int
    queue: str
    task: str | None  # the handler's name; null for a bare payload
    status: Status
    priority: int  # higher first
    seq: Timestamp  # order of storing, made by the server
    payload: Any
    headers: dict[str, str]
    tag: str  # free text to find it by
    attempt: int  # counted up at the claim: 0 until first claimed
    max_attempts: int
    created_at: datetime
    due_at: datetime  # while delayed, and kept after
    expires_at: datetime  # not started by then: expired
    total_timeout_s: float  # how long all attempts together may take
    total_until: datetime  # by then: written at the first claim, while it has not ended
    lifetime_until: datetime  # removed then, whatever its status (TTL too)
    ready_in: str  # the queue, written by each update that makes a task ready, so that the stream tells it
    rate_key: str  # whose limits it counts for, besides its queue's
    held_up_by: str  # until claimed: the key a slot of which it waits for
    slot: int  # while running: its place among those of its queue that may run, unique
    key_slot: str  # the same for its key: see `limits.key_slot`
    freed_in: str  # the queue, written when a slot is free again or a flood released, so that the stream tells it
    claim_id: bytes
    lease_until: datetime
    worker: str
    cancel_to: str  # the worker of a running task that is to be cancelled, so that its stream tells it
    started_at: datetime
    finished_at: datetime
    settled_by: bytes  # claim_id of the last settlement: tells "done by me" from "taken over"
    settled_for: list[str]  # copy of reply_to, written at a terminal settlement so that waiters hear it
    reply_to: list[str]  # members that wait for the result
    slot_at: datetime  # of a recurring task: the slot of its schedule it is for
    fired_by: str  # the member that put it for its slot
    keep_s: float  # how long to keep it once succeeded; 0: deleted at the settlement
    keep_failed_s: float  # how long to keep it after any other end, where that is not the default
    remove_at: datetime  # TTL
    unique_key: Any  # as people read it (see `unique_key`)
    unique_lock: bytes  # what no other task of the queue has; until the end
    unique_for_s: float  # instead of the lock, of a key that is held in the meta collection
    revision: int  # only beside a unique key: counted up whenever a later put takes the task's place
    requeue_id: ObjectId  # of the request that requeued it last
    progress: StoredProgress
    blocked_by: list[ObjectId]  # tasks whose ends it waits for (see core.parents)
    blocked_by_any: list[ObjectId]  # those of them of which one success is enough
    on_parent_failure: str  # "run" or "fail"; absent: it is cancelled
    has_children: bool  # tasks were put to run after this one
    group: str  # tasks of one group of a queue run one at a time
    group_lock: str  # the group, on the one whose turn it is (see moves.promote)
    follow_up: float  # a mark for the scheduler: what waits for this task (or what it waits for, when blocked) is to be
    #                   looked at. Of an ended task: the seconds for which it is kept once that is done
    result: Any
    errors: list[StoredError]
