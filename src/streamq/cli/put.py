"""`streamq put QUEUE PAYLOAD`: put one task."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from streamq.app import StreamQ
from streamq.cli.how import How
from streamq.cli.locate import located
from streamq.cli.payload import read_payload
from streamq.cli.place import SERVER, Server, opened
from streamq.cli.screen import answer, say
from streamq.core.new_task import NewTask, PutReply
from streamq.core.options import Options, options_of, require_text
from streamq.drafting import task_of_handler
from streamq.errors import PayloadInvalid, UsageError

PLAIN = How()


def put(
    queue: Annotated[str, Parameter(help="The queue's name.")],
    payload: Annotated[str, Parameter(help="JSON, or - to read it from stdin.", allow_leading_hyphen=True)],
    /,
    *,
    task: Annotated[str | None, Parameter(help="Handler that is to run it; PAYLOAD holds its arguments.")] = None,
    app: Annotated[str | None, Parameter(help="MODULE:APP: check PAYLOAD by its handler's signature.")] = None,
    json: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Its id and what became of it as a JSON object.")
    ] = False,
    how: How = PLAIN,
    place: Server = SERVER,
) -> None:
    """Put one task and print its id once it is stored with majority, or that of the task with its unique key."""
    given = how.options()
    options = options_of(given)
    value = read_payload(payload)
    if app is not None:
        found = located(app)
        place.move(found)
        try:
            _told(found.blocking.put(_task_of_app(found, queue, task, value, options)), json=json)
        finally:
            found.close()
        return
    with opened(place) as bare:
        new = bare.queue(queue).new(value, **given)
        if task is not None:
            _arguments(require_text("--task", task), value)
            new = msgspec.structs.replace(new, task=task)
        _told(bare.blocking.put(new), json=json)


def _told(reply: PutReply, *, json: bool) -> None:
    if json:
        answer(reply, id=str(reply.id))
    else:
        say(str(reply.id))


def _task_of_app(app: StreamQ, queue: str, task: str | None, value: Any, options: Options) -> NewTask:
    """Build the task as the handler's own `put` would."""
    mine = sorted(name for name, handling in app.handlers.items() if handling.queue == queue)
    if task is None and len(mine) == 1:
        task = mine[0]
    if not mine:
        queues = ", ".join(sorted({handling.queue for handling in app.handlers.values()})) or "none"
        raise UsageError(f"queue {queue!r} has no handler in this app (queues with handlers: {queues})")
    if task not in mine:
        what = "give --task" if task is None else f"no handler {task!r} in queue {queue!r} of this app"
        raise UsageError(f"{what} (handlers of {queue}: {', '.join(mine)})")
    return task_of_handler(app.handlers[task], (), _arguments(task, value), options, None)


def _arguments(task: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PayloadInvalid("", f'{task} takes its arguments as a JSON object, e.g. {{"path": "a.png"}}')
    return value
