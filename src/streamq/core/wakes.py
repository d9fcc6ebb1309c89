"""What the change stream is asked for, and how its events are read.

Here: every `$match` and `$project` of a stream. Filters run on the server: a process hears of its own queues
only, and payloads never travel. The event's `_id` (its resume token) must be projected, or the driver closes
the stream. `updateLookup` is never used: one fat update would kill every such stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from bson import Timestamp

from streamq.core import control
from streamq.core.claim import CHANGED_BY, ENDS_BY, is_number, is_plain_new
from streamq.core.document import DELAYED, READY, WAITING
from streamq.core.member import MEMBER
from streamq.core.schedule import CONTROL_ID as SCHEDULES
from streamq.core.wake import Wake, WakeKind

ENDS = ("expires_at", "lifetime_until")
"""Instants of a new task at which the scheduler has to see to it. Ordinary tasks have none."""

CLAIMED_BY = ("task", "max_attempts", "group_lock", "priority", "seq")
"""What tells who may claim a task, how, and before which others."""

END_OF_STREAM = ("drop", "rename", "dropDatabase", "invalidate")


class Interest(msgspec.Struct, frozen=True):
    """What one stream is to tell.

    `queues` whose ready tasks and pauses matter; `timers`: also tasks that become delayed, members that come, members
    whose shortest lease changes and schedules that change, for a scheduler; `reply_to`: ends of tasks whose results
    this member waits for; `bell`: the stream's own name, by which it is told to stop; `holder`: what its claims name
    as their worker, to hear which of them to cancel.
    """

    queues: tuple[str, ...]
    timers: bool
    reply_to: str | None
    bell: str
    holder: str | None = None


def pipeline(interest: Interest) -> list[dict[str, Any]]:
    """Build the stages for `watch()`."""
    changed = "updateDescription.updatedFields"
    wanted: list[dict[str, Any]] = [
        # Without these a filtered stream ends without a word when its collection goes.
        {"operationType": {"$in": list(END_OF_STREAM)}},
        {"operationType": "update", f"{changed}.bell": interest.bell},
        {"operationType": "insert", "fullDocument.bell": interest.bell},
    ]
    if interest.queues:
        queues = {"$in": list(interest.queues)}
        wanted.append({"operationType": "insert", "fullDocument.status": READY, "fullDocument.queue": queues})
        wanted.append({"operationType": "update", f"{changed}.ready_in": queues})
        wanted.append({"operationType": "update", f"{changed}.freed_in": queues})
        controls = {"$in": [control.row_id(queue) for queue in interest.queues]}
        wanted.append({"operationType": "insert", "documentKey._id": controls})
        wanted.append({"operationType": "update", "documentKey._id": controls, f"{changed}.paused": {"$exists": True}})
    if interest.timers:
        wanted.append({"operationType": "insert", "fullDocument.status": DELAYED})
        wanted += [{"operationType": "insert", f"fullDocument.{name}": {"$exists": True}} for name in ENDS]
        wanted.append({"operationType": "update", f"{changed}.status": DELAYED})
        # A put that replaces a delayed task moves its time and leaves its status.
        moved = {f"{changed}.revision": {"$exists": True}, f"{changed}.due_at": {"$exists": True}}
        wanted.append({"operationType": "update"} | moved)
        revised = {"operationType": "update", f"{changed}.revision": {"$exists": True}}
        wanted += [revised | {f"{changed}.{name}": {"$exists": True}} for name in ENDS]
        wanted.append({"operationType": "insert", "fullDocument.kind": MEMBER})
        # A member that begins to use a shorter lease. A beat that leaves it as it was does not name the field.
        wanted.append({"operationType": "update", f"{changed}.lease_s": {"$exists": True}})
        wanted.append({"operationType": {"$in": ["insert", "update"]}, "documentKey._id": SCHEDULES})
        wanted.append({"operationType": "insert", "fullDocument.follow_up": {"$exists": True}})
        wanted.append({"operationType": "update", f"{changed}.follow_up": {"$exists": True}})
    if interest.reply_to is not None:
        wanted.append({"operationType": "update", f"{changed}.settled_for": interest.reply_to})
    if interest.holder is not None:
        wanted.append({"operationType": "update", f"{changed}.cancel_to": interest.holder})
    told = ["bell", "status", "due_at", "ready_in", "freed_in", "revision", "lease_s", "cancel_to", "paused"]
    told += ["settled_for", "follow_up", *ENDS]
    stored = ["bell", "status", "due_at", "queue", "task", "attempt", "max_attempts", "kind", "lease_s", "follow_up"]
    stored += ["paused", "serves", *ENDS_BY, *CHANGED_BY, *ENDS]
    project = {"operationType": 1, "documentKey._id": 1, "wallTime": 1}
    project |= {f"{changed}.{name}": 1 for name in told}
    project |= {f"fullDocument.{name}": 1 for name in stored}
    return [{"$match": {"$or": wanted}}, {"$project": project}]


def wake_of(event: Mapping[str, Any], interest: Interest) -> Wake | None:
    """Read one event; None when it says nothing to this stream (the end of a stream shows by itself), and when it
    tells of a document whose id or queue is none (the server's filter matches arrays element by element)."""
    operation = event["operationType"]
    if isinstance(event.get("documentKey", {}).get("_id"), dict):
        return None
    if operation not in ("insert", "update"):
        return None
    if event["documentKey"]["_id"] == SCHEDULES:
        return Wake("schedule")
    if (queue := control.queue_of(event["documentKey"]["_id"])) is not None:
        said = event["fullDocument"] if operation == "insert" else event["updateDescription"]["updatedFields"]
        return Wake("pause" if said.get("paused") is True else "resume", queue=queue)
    wake = _of_insert(event, interest) if operation == "insert" else _of_update(event, interest)
    return wake if wake.kind != "ready" or type(wake.queue) is str else None


def _of_insert(event: Mapping[str, Any], interest: Interest) -> Wake:
    stored = event["fullDocument"]
    if stored.get("bell") == interest.bell:
        return Wake("bell")
    if stored.get("kind") == MEMBER:
        row_id = event["documentKey"]["_id"]
        came = _member(stored)
        return msgspec.structs.replace(came, member=row_id if type(row_id) is str else "", serves=stored.get("serves"))
    id = event["documentKey"]["_id"]
    status, look_in_s = stored.get("status"), _look_in_s(stored, event.get("wallTime"))
    if status == DELAYED:
        return Wake("delayed", id, due_in_s=_due_in_s(stored, event), look_in_s=look_in_s)
    if "follow_up" in stored:
        return Wake("follow_up", id, follow_up=True, look_in_s=look_in_s)
    if status != READY:
        return Wake("delayed", id, due_in_s=math.inf, look_in_s=look_in_s)
    task = stored.get("task")
    return Wake(
        "ready",
        id,
        queue=stored.get("queue", ""),
        task=task if type(task) is str else None,
        is_new=True,
        durable=stored.get("max_attempts", 1) == 1,
        is_plain=is_plain_new(stored),
        look_in_s=look_in_s,
    )


def wake_of_due(document: Mapping[str, Any]) -> Wake:
    """Say of a delayed task that was released what a stream says of a new one; `_id`, `queue` and `CLAIMED_BY` tell."""
    task, most = document.get("task"), document.get("max_attempts", 1)
    durable = not (is_number(most) and most > 1) or "group_lock" in document
    name = task if type(task) is str else None
    return Wake("ready", document["_id"], document["queue"], name, is_new=True, durable=durable)


def by_urgency(document: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what sorts documents as `queries.CLAIM_ORDER` does; one without a place comes last."""
    priority, seq = document.get("priority"), document.get("seq")
    if isinstance(priority, int | float) and is_number(priority) and isinstance(seq, Timestamp):
        return False, -priority, seq
    return True, 0, Timestamp(0, 0)


def _of_update(event: Mapping[str, Any], interest: Interest) -> Wake:
    changed = event["updateDescription"]["updatedFields"]
    id = event["documentKey"]["_id"]
    if changed.get("bell") == interest.bell:
        return Wake("bell")
    if "lease_s" in changed:
        return _member(changed)
    freed_in = changed.get("freed_in")
    freed_in = freed_in if type(freed_in) is str else ""
    look_in_s = _look_in_s(changed, event.get("wallTime"))
    if "ready_in" in changed:
        return Wake("ready", id, queue=changed["ready_in"], freed_in=freed_in, look_in_s=look_in_s)
    if changed.get("status") == DELAYED or ("revision" in changed and "due_at" in changed):
        return Wake("delayed", id, due_in_s=_due_in_s(changed, event), freed_in=freed_in, look_in_s=look_in_s)
    if "cancel_to" in changed:
        return Wake("cancel", id)
    if look_in_s is not None:
        return Wake("delayed", id, due_in_s=math.inf, look_in_s=look_in_s)
    follow_up = "follow_up" in changed
    kind: WakeKind = "follow_up" if follow_up and "settled_for" not in changed and not freed_in else "settled"
    return Wake(kind, id, freed_in=freed_in, follow_up=follow_up)


def _member(fields: Mapping[str, Any]) -> Wake:
    lease_s: Any = fields.get("lease_s")
    return Wake("member", lease_s=lease_s if is_number(lease_s) else 0.0)


def _due_in_s(fields: Mapping[str, Any], event: Mapping[str, Any]) -> float:
    """Count from the server's own clock at the write: no clock of this machine is asked."""
    due_at, written_at = fields.get("due_at"), event.get("wallTime")
    if not isinstance(due_at, datetime) or not isinstance(written_at, datetime):
        return 0.0  # look now: the scheduler asks the server
    return max(0.0, (due_at - written_at).total_seconds())


def _look_in_s(fields: Mapping[str, Any], now: object) -> float | None:
    """Count as `_due_in_s`; None when nothing but its due time is ahead of the task."""
    told = [fields[name] for name in ENDS if name in fields]
    ends = [end for end in told if isinstance(end, datetime)]
    if not told:
        return None
    if not isinstance(now, datetime) or len(ends) < len(told):
        return 0.0
    return max(0.0, (min(ends) - now).total_seconds())


def wake_of_document(document: Mapping[str, Any], now: datetime, interest: Interest, *, is_new: bool) -> Iterable[Wake]:
    """Say what a stream would tell of a task as it stands now: for a store without streams."""
    status = document.get("status")
    freed_in = document.get("freed_in", "")
    freed_in = freed_in if freed_in in interest.queues else ""
    look_in_s = _look_in_s(document, now) if interest.timers and status in WAITING else None
    more: dict[str, Any] = {"freed_in": freed_in, "look_in_s": look_in_s}
    if status == READY and (document["queue"] in interest.queues or look_in_s is not None):
        durable = is_new and document.get("max_attempts", 1) == 1
        task = document.get("task") if is_new else None
        plain = is_new and is_plain_new(document)
        yield Wake("ready", document["_id"], document["queue"], task, is_new, durable, plain, **more)
    elif status == DELAYED and interest.timers:
        due_in_s = max(0.0, (document["due_at"] - now).total_seconds())
        yield Wake("delayed", document["_id"], due_in_s=due_in_s, **more)
    elif look_in_s is not None and "follow_up" in document:
        yield Wake("follow_up", document["_id"], follow_up=True, look_in_s=look_in_s)
    elif look_in_s is not None:
        yield Wake("delayed", document["_id"], due_in_s=math.inf, **more)
    elif freed_in or (interest.reply_to is not None and interest.reply_to in document.get("settled_for", ())):
        yield Wake("settled", document["_id"], freed_in=freed_in, follow_up="follow_up" in document)
    elif interest.holder is not None and document.get("cancel_to") == interest.holder:
        yield Wake("cancel", document["_id"])
    elif interest.timers and "follow_up" in document:
        yield Wake("follow_up", document["_id"], follow_up=True)
