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
from streamq.core.options import NO_OPTIONS, HandlerOptions, Options, options_of, require_longer, require_text
from streamq.core.plain import scalars_bytes
from streamq.core.put_many import PutMany
from streamq.core.schedule import Schedule
from streamq.errors import OptionInvalid, UsageError


def require_new(one: object, call: str, place: object) -> NewTask:
    """Return a task of a `call` to the app whose tasks are at `place` if it is one, else raise `UsageError`."""
    if not isinstance(one, NewTask):
        hint = ": write handler.new(...) instead of handler.put(...)" if inspect.iscoroutine(one) else ""
        raise UsageError(
            f"{call} takes tasks made by handler.new(...) or queue.new(...), got {type(one).__name__}{hint}"
        )
    if one.place is not place and one.place is not None and one.place != place:
        raise UsageError(
            f"{one.task} is a handler of another app, whose tasks are at {one.place}: put it there; {call} would store "
            f"it at {place}, where no worker of that app looks"
        )
    return one


def put_of_tasks(tasks: Iterable[NewTask], session: Any, place: object) -> PutMany:
    """Prepare a put of many. A collection is checked to its end first, any other iterable while it is drawn.

    Raises `UsageError`. Tasks with parents are put in one call to the store, which refuses a parent that is not there
    before it stores anything, and knows one that stands earlier in the same put.
    """
    _require_iterable("tasks", tasks)
    whole = False
    if isinstance(tasks, Collection):
        for one in tasks:
            whole |= require_new(one, "put_many", place).options.has_parents
    drawn = (require_new(one, "put_many", place) for one in tasks)
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
    draft = BareDraft(queue, options, settings)
    drawn = (draft.task(payload, reply_to) for payload in payloads)
    many = PutMany(drawn, all_there=all_there, in_transaction=session is not None)
    count = many.draw_ahead()
    if all_there:
        for payload in islice(payloads, count, None):
            _encoded(payload, settings)
    return many


def _require_iterable(name: str, value: object) -> None:
    if not isinstance(value, Iterable):
        raise OptionInvalid(name, value, "an iterable (of an async one: gather some, and put them)")


class Draft:
    """What the tasks of one queue, of one handler or bare, have in common that are put with the same options: what
    these leave open is filled up, once, by what was declared."""

    __slots__ = ("_common", "_id", "_options", "_place", "_queue", "_task")

    def __init__(
        self,
        queue: str,
        task: str | None,
        options: Options,
        settings: Handling | BareSettings,
        place: object = None,
    ) -> None:
        """Raises `OptionInvalid`."""
        expires_in_s = options.expires_in_s
        if expires_in_s is None and options.expires_at is None:
            expires_in_s = settings.expires_in_s
        if expires_in_s is not None:
            require_longer("expires_in_s", expires_in_s, options.delay_s)
        total_timeout_s = settings.total_timeout_s if options.total_timeout_s is None else options.total_timeout_s
        self._queue = queue
        self._task = task
        self._options = options
        self._id = options.id
        self._place = place
        self._common = (
            options.max_attempts or settings.retry.max_attempts,
            settings.priority if options.priority is None else int(options.priority),  # stored: a plain int
            settings.keep_s if options.keep_s is None else options.keep_s,
            settings.keep_failed_s if options.keep_failed_s is None else options.keep_failed_s,
            _limited(expires_in_s),
            _limited(total_timeout_s),
        )

    def task(self, payload: Any, size_bytes: int, reply_to: str | None) -> NewTask:
        """Build a task with a payload as it is stored."""
        # By position: half the time of keywords, at every put.
        return NewTask(
            self._id or ObjectId(),
            self._queue,
            self._task,
            payload,
            self._options,
            *self._common,
            reply_to,
            None,
            None,
            size_bytes,
            self._place,
        )


class HandlerDraft:
    """Makes tasks of one handler, of the arguments of calls."""

    __slots__ = ("_draft", "_handling")

    def __init__(self, handling: Handling, options: Options) -> None:
        """Raises `OptionInvalid`."""
        self._handling = handling
        self._draft = Draft(handling.queue, handling.name, options, handling, handling.place)

    def task(self, args: tuple[Any, ...], kwargs: dict[str, Any], reply_to: str | None) -> NewTask:
        """Build a task. Raises `PayloadInvalid`, `PayloadTooLarge`."""
        handling = self._handling
        bound = handling.schema.bind_plain(args, kwargs)
        if bound is not None and bound[1] <= handling.limit_bytes:
            return self._draft.task(bound[0], bound[1], reply_to)
        payload = handling.schema.bind(args, kwargs)
        size_bytes = require_size(payload, handling.limit_bytes, f"the payload of {handling.name}")
        return self._draft.task(payload, size_bytes, reply_to)


def task_of_handler(
    handling: Handling, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options, reply_to: str | None
) -> NewTask:
    """Build one task for a handler. Raises `PayloadInvalid`, `PayloadTooLarge`, `OptionInvalid`."""
    return HandlerDraft(handling, options).task(args, kwargs, reply_to)


class BareDraft:
    """Makes tasks with bare payloads."""

    __slots__ = ("_draft", "_settings")

    def __init__(self, queue: str, options: Options, settings: BareSettings) -> None:
        """Raises `OptionInvalid`."""
        self._settings = settings
        self._draft = Draft(queue, None, options, settings)

    def task(self, payload: Any, reply_to: str | None) -> NewTask:
        """Build a task. Raises `PayloadInvalid`, `PayloadTooLarge`."""
        stored, size_bytes = _encoded(payload, self._settings)
        return self._draft.task(stored, size_bytes, reply_to)


def task_of_payload(
    queue: str, payload: Any, options: Options, settings: BareSettings, reply_to: str | None
) -> NewTask:
    """Build a task with a bare payload. Raises `PayloadInvalid`, `PayloadTooLarge`, `OptionInvalid`."""
    return BareDraft(queue, options, settings).task(payload, reply_to)


def _encoded(payload: Any, settings: BareSettings) -> tuple[Any, int]:
    if type(payload) is dict:
        size_bytes = scalars_bytes(payload)
        if size_bytes is not None and size_bytes <= settings.limit_bytes:
            return payload.copy(), size_bytes
    stored = to_stored(payload)
    return stored, require_size(stored, settings.limit_bytes, "the payload")


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
    return require_text("name", name)


def require_switched(name: str, found: bool) -> None:
    """Refuse a schedule that is not stored."""
    if not found:
        raise UsageError(f"there is no schedule {name!r}: a worker that declares it stores it when it starts")
