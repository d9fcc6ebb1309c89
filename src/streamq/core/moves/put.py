"""Put: a new task becomes a document."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from streamq.core.document import ASSIGN_SEQ, BLOCKED, DELAYED, READY, SCHEMA_VERSION, TaskDocument
from streamq.core.new_task import NewTask
from streamq.core.options import KEEP_FAILED_S, NO_OPTIONS, Options
from streamq.core.parents import NO_FAMILY, Ends, Family, awaited
from streamq.core.unique_key import lock_of, stored_key

MS = timedelta(milliseconds=1)


def document_of(new: NewTask, now: datetime, family: Family = NO_FAMILY) -> TaskDocument:
    """Build the document; `now` is the server's time as last heard (an insert cannot say `$$NOW`). `family` tells what
    is known of the task's parents."""
    (document,) = documents_of([new], now, family)
    return document


def documents_of(tasks: Sequence[NewTask], now: datetime, family: Family = NO_FAMILY) -> list[TaskDocument]:
    """Build the documents of one put; as `document_of`."""
    created_at = whole_ms(now)
    return [_document(one, now, created_at, family) for one in tasks]


def _document(new: NewTask, now: datetime, created_at: datetime, family: Family) -> TaskDocument:
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
        "created_at": created_at,
    }
    if new.expires_in_s is not None:
        document["expires_at"] = up_to_ms(now + timedelta(seconds=new.expires_in_s))
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
    if new.options is not NO_OPTIONS:
        _add_options(document, new.options, now, family)
    if new.id in family.parents:
        document["has_children"] = True
    return document


def _add_options(document: TaskDocument, options: Options, now: datetime, family: Family) -> None:
    due_at = _due_at(options, now)
    if due_at is not None and due_at > now:
        document["status"] = DELAYED
        document["due_at"] = due_at
    if options.expires_at is not None:
        document["expires_at"] = up_to_ms(options.expires_at.astimezone(UTC))
    if options.lifetime_s is not None:
        document["lifetime_until"] = up_to_ms(now + timedelta(seconds=options.lifetime_s))
    if options.rate_key is not None:
        document["rate_key"] = options.rate_key
    if options.headers:
        document["headers"] = dict(options.headers)
    if options.tag is not None:
        document["tag"] = options.tag
    if options.unique is not None:
        document["unique_key"] = stored_key(options.unique)
        document["revision"] = 0
        if options.unique_for_s is None:
            document["unique_lock"] = lock_of(options.unique)
        else:
            document["unique_for_s"] = float(options.unique_for_s)
    if options.has_parents:
        _block(document, options, family.ends)
    if options.group is not None:
        document["group"] = options.group
        document["status"] = BLOCKED
        document["follow_up"] = 0.0


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


def _due_at(options: Options, now: datetime) -> datetime | None:
    if options.at is not None:
        return up_to_ms(options.at.astimezone(UTC))
    if options.delay_s:
        return up_to_ms(now + timedelta(seconds=options.delay_s))
    return None


def whole_ms(instant: datetime) -> datetime:
    """Cut to the milliseconds that a BSON date holds."""
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def up_to_ms(instant: datetime) -> datetime:
    """Round up to milliseconds: a delayed task never starts early."""
    cut = whole_ms(instant)
    return cut if cut == instant else cut + MS
