"""From what the user gave to a task that can be put: everything is checked here, before anything is sent."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Any

from bson import ObjectId

from streamq.core.codec import require_size, to_stored
from streamq.core.handling import BareSettings, Handling
from streamq.core.new_task import NewTask
from streamq.core.options import HandlerOptions, Options, options_of, require_longer
from streamq.core.put_many import PutMany
from streamq.core.schedule import Schedule
from streamq.errors import OptionInvalid, UsageError

NO_OPTIONS = Options()


def require_new(one: object, call: str) -> NewTask:
    """Return a task of a `call` if that is what it is, else raise `UsageError`."""
    if not isinstance(one, NewTask):
        hint = ": write handler.new(...) instead of handler.put(...)" if inspect.iscoroutine(one) else ""
        raise UsageError(
            f"{call} takes tasks made by handler.new(...) or queue.new(...), got {type(one).__name__}{hint}"
        )
    return one


def put_of_tasks(tasks: Iterable[NewTask], session: Any) -> PutMany:
    """Prepare a put of many. A collection is checked to its end first, any other iterable while it is drawn.

    Raises `UsageError`. Tasks with parents are put in one call to the store, which refuses a parent that is not there
    before it stores anything, and knows one that stands earlier in the same put.
    """
    _require_iterable("tasks", tasks)
    whole = False
    if isinstance(tasks, Collection):
        for one in tasks:
            whole |= require_new(one, "put_many").options.has_parents
    drawn = (require_new(one, "put_many") for one in tasks)
    all_there = isinstance(tasks, Collection)
    return PutMany(drawn, all_there=all_there, in_transaction=session is not None, whole=whole)


def put_of_payloads(
    queue: str, payloads: Iterable[Any], options: Options, settings: BareSettings, reply_to: str | None, session: Any
) -> PutMany:
    """Prepare a put of one task a payload, as `put_of_tasks`. Raises `PayloadInvalid`, `PayloadTooLarge`.

    Of a collection all payloads behind the first chunk are encoded twice: to check them, and to send them. To hold them
    would take what a put of many must not.
    """
    _require_iterable("payloads", payloads)
    if isinstance(payloads, str | bytes | bytearray | Mapping):
        # Each has items, which nobody means: characters, numbers, keys.
        raise OptionInvalid("payloads", payloads, "an iterable of payloads; one payload is put by put")
    all_there = isinstance(payloads, Collection)
    drawn = (task_of_payload(queue, payload, options, settings, reply_to) for payload in payloads)
    many = PutMany(drawn, all_there=all_there, in_transaction=session is not None)
    count = many.draw_ahead()
    if all_there:
        for payload in islice(payloads, count, None):
            _encoded(payload, settings)
    return many


def _require_iterable(name: str, value: object) -> None:
    if not isinstance(value, Iterable):
        raise OptionInvalid(name, value, "an iterable (of an async one: gather some, and put them)")


def task_of_handler(
    handling: Handling, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options, reply_to: str | None
) -> NewTask:
    """Build a task for a handler. Raises `PayloadInvalid`, `PayloadTooLarge`."""
    payload = handling.schema.bind(args, kwargs)
    size_bytes = require_size(payload, handling.limit_bytes, f"the payload of {handling.name}")
    return _new(handling.queue, handling.name, payload, size_bytes, options, handling, reply_to)


def task_of_payload(
    queue: str, payload: Any, options: Options, settings: BareSettings, reply_to: str | None
) -> NewTask:
    """Build a task with a bare payload. Raises `PayloadInvalid`, `PayloadTooLarge`."""
    stored, size_bytes = _encoded(payload, settings)
    return _new(queue, None, stored, size_bytes, options, settings, reply_to)


def _encoded(payload: Any, settings: BareSettings) -> tuple[Any, int]:
    stored = to_stored(payload)
    return stored, require_size(stored, settings.limit_bytes, "the payload")


def _new(
    queue: str,
    task: str | None,
    payload: Any,
    size_bytes: int,
    options: Options,
    settings: Handling | BareSettings,
    reply_to: str | None,
) -> NewTask:
    """Fill up what the options leave open by what was declared. Raises `OptionInvalid`."""
    expires_in_s = options.expires_in_s
    if expires_in_s is None and options.expires_at is None:
        expires_in_s = settings.expires_in_s
    if expires_in_s is not None:
        require_longer("expires_in_s", expires_in_s, options.delay_s)
    return NewTask(
        id=options.id or ObjectId(),
        queue=queue,
        task=task,
        payload=payload,
        options=options,
        max_attempts=options.max_attempts or settings.retry.max_attempts,
        priority=settings.priority if options.priority is None else int(options.priority),  # stored: a plain int
        keep_s=settings.keep_s if options.keep_s is None else options.keep_s,
        keep_failed_s=settings.keep_failed_s if options.keep_failed_s is None else options.keep_failed_s,
        total_timeout_s=_limited(
            settings.total_timeout_s if options.total_timeout_s is None else options.total_timeout_s
        ),
        expires_in_s=_limited(expires_in_s),
        reply_to=reply_to,
        size_bytes=size_bytes,
    )


def chosen_for_handler(given: HandlerOptions) -> tuple[Options, Any]:
    """Check the keywords of `handler.options`; return the options and the session. Raises `OptionInvalid`."""
    options: Any = {name: value for name, value in given.items() if name != "session"}
    return options_of(options), given.get("session")


def require_no_session(session: object) -> None:
    """Refuse to build a task that is put elsewhere with options that name a session: it would not be put in it."""
    if session is not None:
        raise OptionInvalid("session", session, "to be given to the put itself: put(new, session=...)")


def _limited(value: float | None) -> float | None:
    """No limit is said in two ways and stored in none."""
    return None if value == math.inf else value


def require_callable_bare(handling: Handling) -> None:
    """Refuse a recurring handler that cannot be called without arguments, naming the parameter."""
    required = handling.schema.required
    if required:
        raise UsageError(
            f"{handling.name}: parameter {required[0]} needs a default: the tasks of a recurring handler are put "
            f"without arguments"
        )


def schedules_of(handlings: Iterable[Handling]) -> list[Schedule]:
    """Build what is declared of the recurring ones among `handlings`."""
    return [
        Schedule(one.recurrence, task_of_handler(one, (), {}, NO_OPTIONS, None))
        for one in handlings
        if one.recurrence is not None
    ]


def task_now(handling: Handling, reply_to: str | None) -> NewTask:
    """Build a task of a recurring handler outside of its slots. Raises `UsageError` for one that does not recur."""
    if handling.recurrence is None:
        raise UsageError(f"{handling.name} does not recur (it has no cron or every_s): put it")
    return task_of_handler(handling, (), {}, NO_OPTIONS, reply_to)


def require_schedule_name(name: object) -> str:
    """Return `name` if it can name a schedule, else raise `OptionInvalid`."""
    if not isinstance(name, str):
        raise OptionInvalid("name", name, "the name of a recurring handler, as a str")
    return name


def require_switched(name: str, found: bool) -> None:
    """Refuse a schedule that is not stored."""
    if not found:
        raise UsageError(f"there is no schedule {name!r}: a worker that declares it stores it when it starts")
