"""Settle: the end of an attempt, written by its holder. Which move it is was decided in `core.settlement`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from streamq.core.document import DELAYED, READY, RUNNING, SUCCEEDED, TaskDocument
from streamq.core.moves import cancel, report
from streamq.core.moves.fence import (
    after,
    after_ms,
    end,
    errors_with,
    left_behind,
    let_go,
    remember,
    terminal_fields,
)
from streamq.core.outcome import Raised
from streamq.core.settlement import Settlement
from streamq.core.transitions import is_terminal, next_status

UNCOUNTED = ("release", "snooze")
"""Moves after which the attempt has not happened."""


def is_uniform(settlement: Settlement) -> bool:
    """Say whether the write depends on nothing of its task, so that many can share one statement."""
    return settlement.result is None and settlement.error is None and settlement.progress is None


def update(settlement: Settlement) -> list[dict[str, Any]]:
    """Build the update; its filter is the fence."""
    fields = ending(settlement.move, settlement.error, settlement.delay_s, settlement.keep_s)
    # By this, "done by me" can be told from "taken over" when a reply was lost.
    fields["settled_by"] = "$claim_id"
    if settlement.frees:
        fields |= freed()
    if settlement.result is not None:
        fields["result"] = {"$literal": settlement.result}
    if settlement.progress is not None:
        fields["progress"] = report.stored(settlement.progress)
    instead = [] if is_terminal(fields["status"]) else cancel.if_asked()
    return [{"$set": fields}, *instead, {"$unset": left_behind(fields["status"])}]


def freed() -> dict[str, Any]:
    """What tells others that a slot is free again, if the task has one."""
    has_slot = {"$or": [{"$gte": ["$slot", 0]}, {"$gte": ["$key_slot", ""]}]}
    return {"freed_in": {"$cond": [has_slot, "$queue", "$$REMOVE"]}}


def ending(move: str, error: Raised | None, delay_s: float = 0.0, keep_s: float = 0.0) -> dict[str, Any]:
    """Build what a running task's way out by `move` writes, whoever shows it out."""
    status = next_status(RUNNING, move)
    fields: dict[str, Any] = {"status": status}
    if error is not None:
        fields["errors"] = errors_with(error)
    if move in UNCOUNTED:
        fields["attempt"] = {"$subtract": ["$attempt", 1]}
    if status == READY:
        fields["ready_in"] = "$queue"
    elif status == DELAYED:
        fields["due_at"] = after_ms(delay_s)
    elif is_terminal(status):
        fields |= terminal_fields(keep_s if status == SUCCEEDED else None)
    return fields


def apply(document: TaskDocument, settlement: Settlement, now: datetime) -> None:
    """Settle a document in memory (deleting it is the store's part)."""
    claim_id = document["claim_id"]
    if settlement.frees:
        apply_freed(document)
    apply_ending(document, settlement.move, settlement.error, now, settlement.delay_s, settlement.keep_s)
    document["settled_by"] = claim_id
    if settlement.result is not None:
        document["result"] = settlement.result
    if settlement.progress is not None:
        document["progress"] = report.stored_at(settlement.progress, now)


def apply_freed(document: TaskDocument) -> None:
    """`freed`, on a document in memory that still has its slots."""
    if "slot" in document or "key_slot" in document:
        document["freed_in"] = document["queue"]


def apply_ending(
    document: TaskDocument, move: str, error: Raised | None, now: datetime, delay_s: float = 0.0, keep_s: float = 0.0
) -> None:
    """`ending`, on a document in memory."""
    status = next_status(document["status"], move)
    if error is not None:
        remember(document, error, now)
    if move in UNCOUNTED:
        document["attempt"] -= 1
    document["status"] = status
    if status == READY:
        document["ready_in"] = document["queue"]
    elif status == DELAYED:
        document["due_at"] = after(now, delay_s)
    elif is_terminal(status):
        end(document, keep_s if status == SUCCEEDED else None, now)
    if not is_terminal(status) and "cancel_to" in document:
        cancel.apply(document, now)
    let_go(document)
