"""A task that is about to be put: checked, encoded, not stored yet."""

from __future__ import annotations

from typing import Any

import msgspec
from bson import ObjectId

from streamq.core.options import Options


class NewTask(msgspec.Struct, frozen=True):
    """Everything of a put but the instant.

    `id` is made by the client, so that a put whose reply was lost can be sent again without storing it twice.
    `payload` is encoded (`core.codec`).
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
    reply_to: str | None = None


class PutReply(msgspec.Struct, frozen=True):
    """What became of one task of a put: `created` is False when a task with its id was stored already."""

    id: ObjectId
    created: bool = True
