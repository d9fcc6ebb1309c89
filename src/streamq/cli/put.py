"""`streamq put QUEUE PAYLOAD`: put one task."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from bson import ObjectId
from bson.errors import InvalidId
from cyclopts import Group, Parameter

from streamq.app import StreamQ
from streamq.cli.locate import located
from streamq.cli.payload import read_payload
from streamq.cli.place import HERE, Place, opened
from streamq.cli.screen import say
from streamq.core.new_task import NewTask
from streamq.core.options import OnConflict, Options, PutOptions, options_of
from streamq.drafting import task_of_handler
from streamq.errors import PayloadInvalid, UsageError

HOW = Group("How it is put")


def put(
    queue: Annotated[str, Parameter(help="The queue's name.")],
    payload: Annotated[str, Parameter(help="JSON, or - to read it from stdin.", allow_leading_hyphen=True)],
    /,
    *,
    task: Annotated[str | None, Parameter(help="Handler that is to run it; PAYLOAD holds its arguments.")] = None,
    app: Annotated[str | None, Parameter(help="MODULE:APP: check PAYLOAD by its handler's signature.")] = None,
    delay: Annotated[float | None, Parameter(group=HOW, help="Start no sooner than so many seconds from now.")] = None,
    at: Annotated[str | None, Parameter(group=HOW, help="Start no sooner than 2030-01-31T12:00:00+01:00.")] = None,
    priority: Annotated[int | None, Parameter(group=HOW, help="Higher is claimed first; default 0.")] = None,
    max_attempts: Annotated[int | None, Parameter(group=HOW, help="How often it may be tried.")] = None,
    keep: Annotated[float | None, Parameter(group=HOW, help="Seconds to keep it once it has succeeded.")] = None,
    header: Annotated[
        tuple[str, ...], Parameter(group=HOW, negative=(), show_default=False, help="NAME=TEXT; may be repeated.")
    ] = (),
    id: Annotated[str | None, Parameter(group=HOW, help="Its id: putting it twice stores one task.")] = None,
    unique: Annotated[str | None, Parameter(group=HOW, help="Only one task that has not ended may have it.")] = None,
    unique_for: Annotated[float | None, Parameter(group=HOW, help="Hold UNIQUE so many seconds; inf: ever.")] = None,
    on_conflict: Annotated[OnConflict | None, Parameter(group=HOW, help="When UNIQUE is taken.")] = None,
    place: Place = HERE,
) -> None:
    """Put one task and print its id, once it is stored with majority: of the one that has UNIQUE, if there is one."""
    given: PutOptions = {
        "delay_s": delay,
        "at": None if at is None else _instant(at),
        "priority": priority,
        "max_attempts": max_attempts,
        "keep_s": keep,
        "headers": _headers(header) or None,
        "id": None if id is None else _id(id),
        "unique": unique,
        "unique_for_s": unique_for,
        "on_conflict": on_conflict,
    }
    options = options_of(given)
    value = read_payload(payload)
    if app is not None:
        found = located(app)
        place.move(found)
        try:
            _put(found, _task_of_app(found, queue, task, value, options))
        finally:
            found.close()
        return
    with opened(place) as bare:
        new = bare.queue(queue).new(value, **given)
        if task is not None:
            _arguments(task, value)
            new = msgspec.structs.replace(new, task=task)
        _put(bare, new)


def _put(app: StreamQ, new: NewTask) -> None:
    say(str(app.blocking.put(new).id))


def _task_of_app(app: StreamQ, queue: str, task: str | None, value: Any, options: Options) -> NewTask:
    """Build the task as the handler's own `put` would."""
    mine = sorted(name for name, handling in app.handlers.items() if handling.queue == queue)
    if task is None and len(mine) == 1:
        task = mine[0]
    if task not in mine:
        what = "give --task" if task is None else f"no handler {task!r} in queue {queue!r} of this app"
        raise UsageError(f"{what} (handlers of {queue}: {', '.join(mine) or 'none'})")
    return task_of_handler(app.handlers[task], (), _arguments(task, value), options, None)


def _arguments(task: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PayloadInvalid("", f'{task} takes its arguments as a JSON object, e.g. {{"path": "a.png"}}')
    return value


def _instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--at {text!r} is refused: expected an instant such as 2030-01-31T12:00:00+01:00") from None


def _id(text: str) -> ObjectId:
    try:
        return ObjectId(text)
    except InvalidId:
        raise UsageError(f"--id {text!r} is refused: expected 24 hexadecimal digits") from None


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not name or not equals or name in headers:
            raise UsageError(f"--header {one!r} is refused: expected NAME=TEXT, each name once")
        headers[name] = text
    return headers
