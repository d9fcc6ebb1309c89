"""A handler: the user's function with its queue around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, Unpack

from streamq.core.handling import Handling
from streamq.core.limits import Limits
from streamq.core.new_task import NewTask, PutReply
from streamq.core.options import NO_OPTIONS, HandlerOptions, Options
from streamq.drafting import HandlerDraft, chosen_for_handler, require_no_session, task_now
from streamq.handle import Handle
from streamq.runtime.services import Services
from streamq.trio_side import in_trio

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", covariant=True)


class Door(Protocol):
    """What handlers and queues need of their app."""

    @property
    def reply_to(self) -> str | None:
        """Where ends of tasks are to be told; None while the app is not entered."""

    def limits_of(self, queue: str) -> Limits | None:
        """The declared limits of a queue."""

    def leases_of(self, queue: str) -> Mapping[str, float]:
        """The leases of a queue's handlers that have one of their own, by name."""

    def services(self) -> Services:
        """The running services. Raises `UsageError` while the app is not entered."""


class Handler(Generic[P, R, C]):
    """A declared handler. Calling it calls the function itself, as a unit test would."""

    def __init__(self, function: Callable[P, C], handling: Handling, door: Door) -> None:
        self.function = function
        self.handling = handling
        self._door = door
        self._draft = HandlerDraft(handling, NO_OPTIONS)
        self.__name__ = handling.name
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"<Handler {self.handling.name!r} of queue {self.handling.queue!r}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Call the function here and now; nothing is queued."""
        return self.function(*args, **kwargs)

    @in_trio
    async def put(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Put a task that will call the function with these arguments; return once it is stored with majority.

        Raises `PayloadInvalid` (naming the field) or `PayloadTooLarge` before anything is sent; `PutUnknown` when no
        majority answered in time; `StoreUnavailable` when nothing was sent. Trips: 1, shared with other puts that
        wait. Cancellation: withdrawn before it is sent, else stored and returned.
        """
        putter = self._door.services().putter
        reply = await putter.put(self._draft.task(args, kwargs, self._door.reply_to))
        return handle_of(self._door, self.handling, reply)

    @in_trio
    async def run_now(self) -> Handle[R]:
        """Put a task of this recurring handler at once, outside of its slots: none is moved, skipped or counted.

        Raises `UsageError` when the handler does not recur; else as `put`.
        """
        reply = await self._door.services().putter.put(task_now(self.handling, self._door.reply_to))
        return handle_of(self._door, self.handling, reply)

    def new(self, *args: P.args, **kwargs: P.kwargs) -> NewTask:
        """Build a task without putting it: for `put_many`, or for a put from a program without trio."""
        return self._draft.task(args, kwargs, self._door.reply_to)

    def options(self, **options: Unpack[HandlerOptions]) -> Putting[P, R]:
        """Choose options for a put: `await handler.options(delay_s=5, priority=9).put(...)`.

        With `session` (of the app's own client, in a transaction) what is put is stored with the caller's own writes or
        not at all, as by `Queue.put`. Raises `OptionInvalid`. See `streamq.core.options.Options` for each.
        """
        chosen, session = chosen_for_handler(options)
        return Putting(self.handling, chosen, self._door, session)


class Putting(Generic[P, R]):
    """A handler with options chosen. May be kept and used many times (unless it says `id`, or `session`: that is for as
    long as its transaction)."""

    def __init__(self, handling: Handling, options: Options, door: Door, session: Any = None) -> None:
        self._handling = handling
        self._options = options
        self._door = door
        self._session = session
        self._draft: HandlerDraft | None = None

    @in_trio
    async def put(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Put a task with these options; as `Handler.put`. Raises `UniqueConflict`, if `on_conflict="raise"` was asked
        for and another task has its unique key."""
        new = self._new(args, kwargs)
        reply = await self._door.services().putter.put(new, self._session)
        return handle_of(self._door, self._handling, reply, self._options.keep_s)

    def new(self, *args: P.args, **kwargs: P.kwargs) -> NewTask:
        """Build a task with these options without putting it. A session is not one of them: give it to the put. Raises
        `OptionInvalid`."""
        require_no_session(self._session)
        return self._new(args, kwargs)

    def _new(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NewTask:
        if self._draft is None:
            self._draft = HandlerDraft(self._handling, self._options)
        return self._draft.task(args, kwargs, self._door.reply_to)


def handle_of(door: Door, handling: Handling, reply: PutReply, keep_s: float | None = None) -> Handle[R]:
    """Build the handle of a task that was put for a handler."""
    keep_s = handling.keep_s if keep_s is None else keep_s
    return Handle(reply.id, door.services, handling.result_of, outcome=reply.outcome, keeps=keep_s != 0)
