"""Unblock: what became of the parents of blocked tasks. One that awaits nothing any more takes its place among the
ready or the delayed ones; one whose parents cannot succeed any more ends as it was asked for at its put.

One update serves all children of a set of parents, whatever each of them waits for. It is idempotent: an id that was
taken off is not there a second time, and a task that left `blocked` does not match.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from streamq.core.document import BLOCKED, ERRORS_KEPT, READY, SUCCEEDED, StoredError, TaskDocument
from streamq.core.moves.fence import IS_GROUPED, LOCKS, end, let_go, terminal_fields
from streamq.core.parents import NONE_LEFT, PARENT_FAILED, Ends, told
from streamq.core.transitions import is_terminal, next_status

READY_NOW: Final = next_status(BLOCKED, "unblock")
LATER: Final = next_status(BLOCKED, "unblock_later")
CANCELLED_BY: Final = next_status(BLOCKED, "cancel")
FAILED_BY: Final = next_status(BLOCKED, "fail")


def update(ends: Ends) -> list[dict[str, Any]]:
    """Build the update for children of the tasks that ended as `ends` says; its filter is `queries.children`."""
    words = [{"id": id, "text": text} for id, text in told(ends)]
    failed = {"$literal": [one["id"] for one in words]}
    runs = {"$eq": ["$on_parent_failure", "run"]}
    succeeded = [id for id, how in ends.items() if how == SUCCEEDED]
    passed = {"$cond": [runs, {"$literal": list(ends)}, {"$literal": succeeded}]}
    any_of = {"$cond": [{"$isArray": ["$blocked_by_any"]}, "$blocked_by_any", []]}
    chosen = {"$gt": [{"$size": {"$setIntersection": [any_of, passed]}}, 0]}
    # Of a choice that was made nothing is awaited any more; of one that is open what failed is not.
    off = {"$concatArrays": [passed, {"$cond": [chosen, any_of, {"$setIntersection": [any_of, failed]}]}]}
    taken_off = {
        "blocked_by": {"$setDifference": ["$blocked_by", off]},
        "blocked_by_any": {
            "$cond": [
                {"$or": [{"$not": [{"$isArray": ["$blocked_by_any"]}]}, chosen]},
                "$$REMOVE",
                {"$setDifference": [any_of, failed]},
            ]
        },
    }
    # The first of those it waits for, so that it is the same one in whatever order their ends are told.
    first = {"$first": {"$filter": {"input": "$blocked_by", "cond": {"$in": ["$$this", failed]}}}}
    said = {"$filter": {"input": {"$literal": words}, "cond": {"$eq": ["$$this.id", "$$blamed"]}}}
    to_blame: dict[str, Any] = {"$cond": [runs, None, {"$let": {"vars": {"blamed": first}, "in": {"$first": said}}}]}
    none_left = {"$eq": ["$blocked_by_any", []]}
    why = {"$ifNull": [{"$getField": {"field": "text", "input": to_blame}}, {"$cond": [none_left, NONE_LEFT, None]}]}
    return [
        {"$set": taken_off},
        {"$set": {"blocked_why": why}},
        {"$set": {"status": _status()}},
        {"$set": _what_follows()},
        {"$unset": "blocked_why"},
    ]


def _status() -> dict[str, Any]:
    ends_in = {"$cond": [{"$eq": ["$on_parent_failure", "fail"]}, FAILED_BY, CANCELLED_BY]}
    return {
        "$switch": {
            "branches": [
                {"case": {"$ne": ["$blocked_why", None]}, "then": ends_in},
                {"case": {"$ne": ["$blocked_by", []]}, "then": BLOCKED},
                {"case": IS_GROUPED, "then": BLOCKED},  # until its turn comes
                {"case": {"$gt": ["$due_at", "$$NOW"]}, "then": LATER},
            ],
            "default": READY_NOW,
        }
    }


def _what_follows() -> dict[str, Any]:
    """Write what belongs to the status that was just chosen."""
    ended = {"$in": ["$status", [CANCELLED_BY, FAILED_BY]]}
    blocked = {"$eq": ["$status", BLOCKED]}
    error = {
        "attempt": "$attempt",
        "type": PARENT_FAILED,
        "message": "$blocked_why",
        "traceback": "",
        "at": "$$NOW",
        "worker": "",
    }
    so_far = {"$cond": [{"$isArray": ["$errors"]}, "$errors", []]}
    fields: dict[str, Any] = {name: {"$cond": [ended, value, f"${name}"]} for name, value in terminal_fields().items()}
    fields["errors"] = {"$cond": [ended, {"$slice": [{"$concatArrays": [so_far, [error]]}, -ERRORS_KEPT]}, "$errors"]}
    fields["ready_in"] = {"$cond": [{"$eq": ["$status", READY_NOW]}, "$queue", "$ready_in"]}
    # The mark of a task that waits no more would find nothing to do.
    open_ones = {"$ne": ["$blocked_by", []]}
    still = {"$cond": [blocked, {"$cond": [open_ones, "$follow_up", 0.0]}, "$$REMOVE"]}
    fields["follow_up"] = {"$cond": [ended, terminal_fields()["follow_up"], still]}
    for name in LOCKS:
        fields[name] = {"$cond": [ended, "$$REMOVE", f"${name}"]}
    for name in ("blocked_by", "blocked_by_any"):
        fields[name] = {"$cond": [{"$and": [blocked, open_ones]}, f"${name}", "$$REMOVE"]}
    return fields


def is_child(document: TaskDocument, ends: Ends) -> bool:
    """`queries.children`, for a document in memory."""
    return document["status"] == BLOCKED and not ends.keys().isdisjoint(document.get("blocked_by", ()))


def apply(document: TaskDocument, ends: Ends, now: datetime) -> None:
    """Unblock a document in memory."""
    why = _take_off(document, ends)
    if why is not None:
        _end(document, why, now)
    elif not document["blocked_by"] and "group" in document:
        document["follow_up"] = 0.0  # until its turn comes
    elif not document["blocked_by"]:
        later = document.get("due_at", now) > now
        document["status"] = next_status(document["status"], "unblock_later" if later else "unblock")
        if document["status"] == READY:
            document["ready_in"] = document["queue"]
    if not document.get("blocked_by") or document["status"] != BLOCKED:
        for name in ("blocked_by", "blocked_by_any"):
            document.pop(name, None)  # type: ignore[misc]
    if document["status"] != BLOCKED and not is_terminal(document["status"]):
        document.pop("follow_up", None)


def _take_off(document: TaskDocument, ends: Ends) -> str | None:
    """Take off what is not awaited any more; return why the task must end, if it must."""
    runs = document.get("on_parent_failure") == "run"
    words = [] if runs else told(ends)
    failed = {id for id, _ in words}
    passed = ends.keys() - failed
    any_of = document.get("blocked_by_any")
    off = set(passed)
    if any_of is not None:
        if passed.isdisjoint(any_of):
            off |= failed.intersection(any_of)
            document["blocked_by_any"] = [id for id in any_of if id not in failed]
        else:
            off |= set(any_of)
            del document["blocked_by_any"]
    document["blocked_by"] = [id for id in document.get("blocked_by", ()) if id not in off]
    to_blame = next((text for id in document["blocked_by"] for other, text in words if id == other), None)
    return NONE_LEFT if to_blame is None and document.get("blocked_by_any") == [] else to_blame


def _end(document: TaskDocument, why: str, now: datetime) -> None:
    fails = document.get("on_parent_failure") == "fail"
    document["status"] = next_status(document["status"], "fail" if fails else "cancel")
    error = StoredError(attempt=document["attempt"], type=PARENT_FAILED, message=why, traceback="", at=now, worker="")
    document["errors"] = [*document.get("errors", []), error][-ERRORS_KEPT:]
    document.pop("follow_up", None)
    end(document, None, now)
    let_go(document)
