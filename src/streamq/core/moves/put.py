"""Put: a new task becomes a document."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from streamq.core.document import ASSIGN_SEQ, BLOCKED, DELAYED, READY, SCHEMA_VERSION, TaskDocument
from streamq.core.new_task import NewTask
from streamq.core.options import KEEP_FAILED_S, Options
from streamq.core.parents import NO_FAMILY, Ends, Family, awaited
from streamq.core.unique_key import lock_of, stored_key

MS = timedelta(milliseconds=1)


def document_of(new: NewTask, now: datetime, family: Family = NO_FAMILY) -> TaskDocument:
    """Build the document; `now` is the server's time as last heard (an insert cannot say `$$NOW`). `family` tells what
    is known of the task's parents."""
    document: TaskDocument = {
        "_id": new.id,
        "v": SCHEMA_VERSION,
        "queue": new.queue,
        "task": new.task,
        "status": READY,
        "priority": new.priority,
        "seq": ASSIGN_SEQ,
        "payload": new.payload,
        "attempt": 0,
        "max_attempts": new.max_attempts,
        "created_at": whole_ms(now),
    }
    due_at = _due_at(new, now)
    if due_at is not None and due_at > now:
        document["status"] = DELAYED
        document["due_at"] = due_at
    if new.options.expires_at is not None:
        document["expires_at"] = up_to_ms(new.options.expires_at.astimezone(UTC))
    elif new.expires_in_s is not None:
        document["expires_at"] = up_to_ms(now + timedelta(seconds=new.expires_in_s))
    if new.options.lifetime_s is not None:
        document["lifetime_until"] = up_to_ms(now + timedelta(seconds=new.options.lifetime_s))
    if new.total_timeout_s is not None:
        document["total_timeout_s"] = float(new.total_timeout_s)
    if new.keep_s is not None:
        document["keep_s"] = float(new.keep_s)
    if new.keep_failed_s is not None and new.keep_failed_s != KEEP_FAILED_S:
        document["keep_failed_s"] = float(new.keep_failed_s)
    if new.reply_to is not None and new.keep_s != 0:
        document["reply_to"] = [new.reply_to]
    if new.slot_at is not None:
        document["slot_at"] = new.slot_at
    if new.fired_by is not None:
        document["fired_by"] = new.fired_by
    if new.options.rate_key is not None:
        document["rate_key"] = new.options.rate_key
    if new.options.headers:
        document["headers"] = dict(new.options.headers)
    if new.options.tag is not None:
        document["tag"] = new.options.tag
    if new.options.unique is not None:
        document["unique_key"] = stored_key(new.options.unique)
        document["revision"] = 0
        if new.options.unique_for_s is None:
            document["unique_lock"] = lock_of(new.options.unique)
        else:
            document["unique_for_s"] = float(new.options.unique_for_s)
    if new.options.has_parents:
        _block(document, new.options, family.ends)
    if new.options.group is not None:
        document["group"] = new.options.group
        document["status"] = BLOCKED
        document["follow_up"] = 0.0
    if new.id in family.parents:
        document["has_children"] = True
    return document


def _block(document: TaskDocument, options: Options, ends: Ends) -> None:
    policy = options.on_parent_failure or "cancel"
    awaits = awaited(options.after_ids, options.after_any_ids, policy, ends)
    if awaits.is_nothing:
        return
    document["status"] = BLOCKED
    document["blocked_by"] = awaits.all
    if awaits.any is not None:
        document["blocked_by_any"] = awaits.any
    if policy != "cancel":
        document["on_parent_failure"] = policy
    # A parent that ends before this is stored, or a transaction committed, is seen by a look at it afterwards.
    document["follow_up"] = 0.0


def _due_at(new: NewTask, now: datetime) -> datetime | None:
    if new.options.at is not None:
        return up_to_ms(new.options.at.astimezone(UTC))
    if new.options.delay_s:
        return up_to_ms(now + timedelta(seconds=new.options.delay_s))
    return None


def whole_ms(instant: datetime) -> datetime:
    """Cut to the milliseconds that a BSON date holds."""
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def up_to_ms(instant: datetime) -> datetime:
    """Round up to milliseconds: a delayed task never starts early."""
    cut = whole_ms(instant)
    return cut if cut == instant else cut + MS
