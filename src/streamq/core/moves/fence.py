"""What the moves of a claim holder share: the fence, letting go, and remembering an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from bson import ObjectId

from streamq.core.document import ERRORS_KEPT, RUNNING, Status, StoredError, TaskDocument
from streamq.core.options import KEEP_FAILED_S
from streamq.core.outcome import Raised
from streamq.core.retry import MAX_DELAY_S
from streamq.core.transitions import is_terminal

HELD: Final[tuple[str, ...]] = ("claim_id", "lease_until", "cancel_to", "slot", "key_slot")
"""Fields that only a running task has."""

LOCKS: Final[tuple[str, ...]] = (
    *("unique_lock", "held_up_by", "blocked_by", "blocked_by_any", "group_lock"),
    "total_until",
)
"""Fields that only a task which has not ended has: what they keep others from is free again at its end, and the time
that runs out begins anew should it be requeued."""


def fence(queue: str, claim_id: bytes, ids: Iterable[ObjectId]) -> dict[str, Any]:
    """Match those of `ids` that are still held under `claim_id`.

    One `claim_id` a filter, never several: ids and claim ids that are matched as two sets would let a stale
    claim of one task pass because the same process holds that task again under another claim of the batch.
    """
    return {"_id": {"$in": list(ids)}, "queue": queue, "status": RUNNING, "claim_id": claim_id}


def is_held(document: Mapping[str, object], queue: str, claim_id: bytes) -> bool:
    """The fence, for a document that was read."""
    return document["status"] == RUNNING and document["queue"] == queue and document.get("claim_id") == claim_id


def after_ms(delay_s: float) -> dict[str, Any]:
    """The server's now plus `delay_s`, for a pipeline."""
    return {"$add": ["$$NOW", round(delay_s * 1000)]}


def after(now: datetime, delay_s: float) -> datetime:
    """The same in memory."""
    return now + timedelta(milliseconds=round(delay_s * 1000))


def terminal_fields(keep_s: float | None = None) -> dict[str, Any]:
    """What every terminal move writes. `keep_s` is for successes; any other end keeps the task as the task itself
    says. `settled_for` is a change that carries the waiters' address.

    A task that others wait for is not to be removed before they have been seen to: it gets a mark instead, which holds
    how long it is to be kept then (`moves.retain`). A mark on the ended task itself cannot be lost by a crash.
    """
    kept_s = seconds_of("keep_failed_s", KEEP_FAILED_S) if keep_s is None else float(keep_s)
    remove_at = KEPT_AFTER_FAILURE if keep_s is None else after_ms(keep_s)
    return {
        "finished_at": "$$NOW",
        "remove_at": {"$cond": [IS_FOLLOWED, "$$REMOVE", remove_at]},
        "follow_up": {"$cond": [IS_FOLLOWED, kept_s, "$$REMOVE"]},
        "settled_for": "$reply_to",
    }


def seconds_of(field: str, default: Any) -> dict[str, Any]:
    """The seconds a stored field holds, for a pipeline; `default` where somebody made it something else."""
    path = f"${field}"
    is_one = {"$and": [{"$isNumber": path}, {"$gte": [path, 0]}, {"$lte": [path, MAX_DELAY_S]}]}
    return {"$cond": [is_one, path, default]}


KEPT_AFTER_FAILURE: Final[dict[str, Any]] = {
    "$add": ["$$NOW", {"$multiply": [seconds_of("keep_failed_s", KEEP_FAILED_S), 1000]}]
}

IS_GROUPED: Final[dict[str, Any]] = {"$eq": [{"$type": "$group"}, "string"]}
"""Whether a task is of an ordering group, for a pipeline."""

IS_FOLLOWED: Final[dict[str, Any]] = {"$or": [{"$eq": ["$has_children", True]}, IS_GROUPED]}
"""Whether others wait for the end of a task, its children or its group, for a pipeline."""


def is_followed(document: Mapping[str, object]) -> bool:
    """The same of a task that was read."""
    return document.get("has_children") is True or isinstance(document.get("group"), str)


def left_behind(status: Status) -> list[str]:
    """Name the fields that a running task loses when it becomes `status`."""
    return [*HELD, *(LOCKS if is_terminal(status) else ())]


def let_go(document: TaskDocument) -> None:
    """Take off a document in memory what it loses when it leaves `running`; its status is the new one already."""
    for name in left_behind(document["status"]):
        document.pop(name, None)  # type: ignore[misc]


def end(document: TaskDocument, keep_s: float | None, now: datetime) -> None:
    """Write the terminal fields on a document in memory (`let_go` takes the locks off)."""
    if keep_s is None:
        keep_s = document.get("keep_failed_s", KEEP_FAILED_S)
    document["finished_at"] = now
    if is_followed(document):
        document.pop("remove_at", None)
        document["follow_up"] = float(keep_s)
    else:
        document["remove_at"] = after(now, keep_s)
        document.pop("follow_up", None)
    if "reply_to" in document:
        document["settled_for"] = list(document["reply_to"])


def errors_with(error: Raised) -> dict[str, Any]:
    """The task's errors with `error` appended, the newest ten kept, for a pipeline."""
    newest = {
        "attempt": "$attempt",
        "type": {"$literal": error.type},
        "message": {"$literal": error.message},
        "traceback": {"$literal": error.traceback},
        "at": "$$NOW",
        "worker": "$worker",
    }
    so_far = {"$cond": [{"$isArray": ["$errors"]}, "$errors", []]}
    return {"$slice": [{"$concatArrays": [so_far, [newest]]}, -ERRORS_KEPT]}


def remember(document: TaskDocument, error: Raised, now: datetime) -> None:
    """Append `error` to a document in memory."""
    newest = StoredError(
        attempt=document["attempt"],
        type=error.type,
        message=error.message,
        traceback=error.traceback,
        at=now,
        worker=document["worker"],
    )
    document["errors"] = [*document.get("errors", []), newest][-ERRORS_KEPT:]
