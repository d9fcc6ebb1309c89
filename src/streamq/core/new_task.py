"""A task that is about to be put: checked, encoded, not stored yet."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from bson import ObjectId

from streamq.core.options import Options
from streamq.errors import UniqueConflict


class NewTask(msgspec.Struct, frozen=True):
    """Everything of a put but the instant.

    `id` is made by the client, so that a put whose reply was lost can be sent again without storing it twice.
    `payload` is encoded (`core.codec`), `size_bytes` is how much it takes as stored; 0 where nobody has asked.
    """

    id: ObjectId
    queue: str
    task: str | None
    payload: Any
    options: Options
    max_attempts: int
    priority: int = 0
    keep_s: float | None = None
    keep_failed_s: float | None = None
    expires_in_s: float | None = None
    total_timeout_s: float | None = None
    reply_to: str | None = None
    slot_at: datetime | None = None  # of a recurring task: the slot it is for
    fired_by: str | None = None  # the member that put it for its slot
    size_bytes: int = 0
    place: object = None  # of a handler's task: where the tasks of its app are, in this process


PutOutcome = Literal["created", "existing", "replaced", "refused", "hidden"]
"""What became of one task of a put.

- `created`: it is stored.
- `existing`: a task with its id was stored already, or one with its unique key is there.
- `replaced`: the task that has its unique key, and had not started, took over its payload and options.
- `refused`: a task with its unique key is there, and the put said `on_conflict="raise"`.
- `hidden`: a task with its unique key is there, and this user's role does not let it be read.

But for `created` nothing was added.
"""


class PutReply(msgspec.Struct, frozen=True):
    """What became of one task of a put. `id` is the id of the task that is there now: the one that was put, or the one
    that has its unique key; only of a `hidden` one it is the id that would have been stored."""

    id: ObjectId
    outcome: PutOutcome = "created"

    @property
    def created(self) -> bool:
        """Say whether this put stored the task."""
        return self.outcome == "created"

    @property
    def replaced(self) -> bool:
        """Say whether this put's payload and options took the place of the existing task's."""
        return self.outcome == "replaced"


def require_accepted(new: NewTask, reply: PutReply) -> PutReply:
    """Return `reply`. Raises `UniqueConflict` for one that was refused."""
    if reply.outcome == "refused":
        raise UniqueConflict(new.options.unique, new.queue, reply.id)
    return reply
