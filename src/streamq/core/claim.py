"""A claim: the right to run one task, and the request that obtains it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from bson import ObjectId, Timestamp

from streamq.core.limits import Limits
from streamq.core.retry import MAX_DELAY_S

INT32: Final = 2**31
"""The end of what a counter or a priority of ours can be."""

ENDS_BY: Final = ("expires_at", "total_timeout_s")
"""Stored fields by which a claim has to work out whether, or when, its task ends by time. A task with neither is plain:
its claim is spared both."""

CHANGED_BY: Final = ("revision", "group_lock")
"""Stored fields of tasks that have a unique key, by which a later put may replace them, or a group."""

Ids = Sequence[ObjectId]
"""Of tasks."""


class Claim(msgspec.Struct, frozen=True, gc=False):
    """One task in the hands of one holder.

    Every write of the holder carries `{_id, queue, status: running, claim_id}` (the fence). One `claim_id` is
    shared by all tasks that one call claimed; it is random and made by the client before the call, because a
    counter does not fence once a claim was rolled back (two claims got the same number in a trial), and
    because an unknown outcome is settled by looking for it.

    The garbage collector needs not know of it (`gc`): nothing that it holds can hold it.
    """

    id: ObjectId
    queue: str
    task: str | None
    payload: Any  # as stored: decoded by the handler's schema
    attempt: int  # from 1
    max_attempts: int
    priority: int
    claim_id: bytes
    lease_s: float
    keep_s: float | None  # None: the store's default
    headers: Mapping[str, str] | None = None
    created_at: datetime | None = None
    tag: str | None = None
    slot_at: datetime | None = None
    has_slot: bool = False
    followed: bool = False  # others wait for its end: it is not deleted at once, whatever keep_s says
    total_s: float | None = None  # from this claim on, for this and all further attempts; None: no limit
    group: str | None = None

    @property
    def is_delicate(self) -> bool:
        """Say whether a second start would be more than a nuisance: it is claimed with majority, and never ahead."""
        return self.max_attempts == 1 or self.group is not None

    @property
    def is_last_attempt(self) -> bool:
        """Say whether a failure now is final."""
        return self.attempt >= self.max_attempts


class Past(msgspec.Struct, frozen=True):
    """A place in the claim order, of a task that was passed over: what comes behind it is not known yet.

    Of tasks with one `seq`, which another producer may have written, those without a handler come first, then by the
    handlers' names: so no two handlers have one place.
    """

    priority: float
    seq: Timestamp
    task: str | None = None


class Ask(msgspec.Struct, frozen=True):
    """What a claim call asks for.

    With `ids` it claims those of them that are ready (a wake named them), the first `limit` by priority and `seq`; else
    the first `limit` of the queue. `only` restricts to handler names; None takes every task of the queue. `leases` are
    those of handlers that have a lease of their own; all other tasks get `lease_s`. `spare` of the `limit` are for
    waiting in the process (prefetch): a task with a single attempt is never among them, since a SIGKILL would burn the
    attempt of a task that never started. `limits` are those of the queue. With `heeds_pause` nothing of a paused queue
    is claimed; without, the asker knows from the stream. With `past` it looks behind that place only: what comes before
    it a claim has found to be for others. What is in `beside` another claim of the same process is about to take: it is
    left alone. With `plain` those of `ids` are claimed only that are as their puts stored them, and as most are
    (`is_plain_new`), which spares the server work: for whom has heard all that there is to check. With `due` its `ids`
    are still delayed: they are claimed as if they had been released first.
    """

    queue: str
    limit: int
    claim_id: bytes
    lease_s: float
    worker: str
    only: tuple[str | None, ...] | None = None
    ids: tuple[ObjectId, ...] | None = None
    spare: int = 0
    durable: bool = False
    leases: Mapping[str, float] = {}
    limits: Limits | None = None
    heeds_pause: bool = False
    past: Past | None = None
    beside: tuple[ObjectId, ...] = ()
    due: bool = False
    plain: bool = False

    def lease_of(self, task: object) -> float:
        """Return the lease of a task whose stored handler's name is `task`."""
        return self.leases.get(task, self.lease_s) if self.leases and type(task) is str else self.lease_s

    @property
    def is_for_one(self) -> bool:
        """Say whether at most one of some known tasks is wanted: a delicate one then only if `durable`."""
        return self.ids is not None and (len(self.ids) == 1 or self.limit == 1)

    @property
    def slots(self) -> int:
        """How many of the claimed tasks can start at once."""
        return self.limit - self.spare


def claim_of(
    document: Mapping[str, Any], *, claim_id: bytes, lease_s: float, attempt: int, has_slot: bool = False
) -> Claim:
    """Read a claim out of a stored task. `attempt` is the one the claim began.

    Another producer, or a person, may have stored anything. A field that cannot be what it should is read as if it
    were not there: the task runs by the defaults, and nothing later meets a value it does not expect. What no
    default can stand in for (`_id`, `queue`, the counters) `queries.ready` has sorted out.
    """
    # Once for each task that runs: by place, and with the kinds that nearly all have asked for first.
    get = document.get
    task, group, tag = get("task"), get("group"), get("tag")
    max_attempts, priority, keep_s = get("max_attempts"), get("priority"), get("keep_s")
    headers, created_at, slot_at = get("headers"), get("created_at"), get("slot_at")
    return Claim(
        document["_id"],
        document["queue"],
        task if type(task) is str else None,  # a BSON Code is a str too, and no key of a dict
        get("payload"),
        attempt if type(attempt) is int else int(attempt),
        max_attempts if type(max_attempts) is int and 0 <= max_attempts < INT32 else _whole(max_attempts, 1),
        priority if type(priority) is int and 0 <= priority < INT32 else _whole(priority, 0),
        claim_id,
        lease_s,
        None if keep_s is None else _keep_s(keep_s),
        None if headers is None else _headers(headers),
        created_at if isinstance(created_at, datetime) else None,
        tag if type(tag) is str else None,
        slot_at if isinstance(slot_at, datetime) else None,
        has_slot,
        get("has_children") is True or isinstance(group, str),
        _total_s(document) if "total_until" in document else None,
        group if type(group) is str else None,
    )


def is_plain(document: Mapping[str, Any]) -> bool:
    """Say whether a stored task has no end by time that its claim must work out."""
    return document.keys().isdisjoint(ENDS_BY)


def is_plain_new(document: Mapping[str, Any]) -> bool:
    """Say of a stored task whether all that its claim must look at is whether somebody was quicker: it is plain, nobody
    can have replaced it, it has no group and its counters are as a put leaves them."""
    return (
        is_plain(document)
        and document.keys().isdisjoint(CHANGED_BY)
        and type(document.get("attempt")) is int
        and document["attempt"] == 0
        and type(document.get("max_attempts")) is int
    )


def is_number(value: object) -> bool:
    """Say whether `value` is a number to count with: no bool, no NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _whole(value: Any, default: int) -> int:
    return int(max(-INT32, min(value, INT32 - 1))) if is_number(value) else default


def _keep_s(value: Any) -> float | None:
    if type(value) is float and 0 <= value <= MAX_DELAY_S:
        return value
    return float(value) if is_number(value) and 0 <= value <= MAX_DELAY_S else None


def _total_s(document: Mapping[str, Any]) -> float | None:
    """Read how long is left, by the server's clock, of a document as its claim has left it."""
    until, started_at = document["total_until"], document.get("started_at")
    return (
        (until - started_at).total_seconds()
        if isinstance(until, datetime) and isinstance(started_at, datetime)
        else None
    )


def _headers(value: Any) -> dict[str, str] | None:
    if not isinstance(value, Mapping):
        return None
    return {name: text for name, text in value.items() if isinstance(name, str) and isinstance(text, str)}
