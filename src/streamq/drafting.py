"""From what the user gave to a task that can be put: everything is checked here, before anything is sent."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from bson import ObjectId

from streamq.core.codec import require_size, to_stored
from streamq.core.handling import Handling
from streamq.core.new_task import NewTask
from streamq.core.options import Options
from streamq.errors import UsageError

NO_OPTIONS = Options()


def require_new(tasks: Iterable[NewTask], call: str) -> list[NewTask]:
    """Return the tasks of a `call` if that is what they are."""
    new = list(tasks)
    for one in new:
        if not isinstance(one, NewTask):
            hint = ": write handler.new(...) instead of handler.put(...)" if inspect.iscoroutine(one) else ""
            raise UsageError(
                f"{call} takes tasks made by handler.new(...) or queue.new(...), got {type(one).__name__}{hint}"
            )
    return new


def task_of_handler(
    handling: Handling, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options, reply_to: str | None
) -> NewTask:
    """Build a task for a handler. Raises `PayloadInvalid`, `PayloadTooLarge`."""
    payload = handling.schema.bind(args, kwargs)
    require_size(payload, handling.limit_bytes, f"the payload of {handling.name}")
    return NewTask(
        id=options.id or ObjectId(),
        queue=handling.queue,
        task=handling.name,
        payload=payload,
        options=options,
        max_attempts=options.max_attempts or handling.retry.max_attempts,
        priority=handling.priority if options.priority is None else options.priority,
        keep_s=handling.keep_s if options.keep_s is None else options.keep_s,
        reply_to=reply_to,
    )


def task_of_payload(
    queue: str, payload: Any, options: Options, *, max_attempts: int, limit_bytes: int, reply_to: str | None
) -> NewTask:
    """Build a task with a bare payload. Raises `PayloadInvalid`, `PayloadTooLarge`."""
    stored = to_stored(payload)
    require_size(stored, limit_bytes, "the payload")
    return NewTask(
        id=options.id or ObjectId(),
        queue=queue,
        task=None,
        payload=stored,
        options=options,
        max_attempts=options.max_attempts or max_attempts,
        priority=options.priority or 0,
        keep_s=options.keep_s,
        reply_to=reply_to,
    )
