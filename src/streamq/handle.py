"""A handle: a task that was put, as the putter sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, overload

import trio
from bson import ObjectId

from streamq.core.document import SUCCEEDED, Status, TaskDocument
from streamq.core.moves.cancel import CancelReply
from streamq.core.new_task import PutOutcome, PutReply
from streamq.core.options import require_task_id, require_timeout_s
from streamq.core.put_many import PutMany
from streamq.core.report import Progress, progress_of
from streamq.core.transitions import is_terminal
from streamq.errors import ResultTimeout, TaskFailed, TaskGone, UsageError
from streamq.runtime.services import Services

R = TypeVar("R")


class Handle(Generic[R]):
    """One task, by its id. `outcome` says what its put did (see `PutOutcome`)."""

    def __init__(
        self,
        id: ObjectId,
        services: Callable[[], Services],
        load: Callable[[TaskDocument], R],
        *,
        outcome: PutOutcome = "created",
        keeps: bool = True,
    ) -> None:
        self.id = id
        self.outcome: PutOutcome = outcome
        self._services = services
        self._load = load
        self._keeps = keeps

    def __repr__(self) -> str:
        return f"<Handle of task {self.id}>"

    def __eq__(self, other: object) -> bool:
        """Say whether it is the same task: those of a put of many are made anew at each look."""
        return self.id == other.id if isinstance(other, Handle) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def created(self) -> bool:
        """Say whether the put stored the task; False when it, or one with its unique key, was there already."""
        return self.outcome == "created"

    @property
    def replaced(self) -> bool:
        """Say whether the put's payload and options took the place of those of a task with its unique key."""
        return self.outcome == "replaced"

    async def result(self, timeout_s: float | None = None) -> R:
        """Wait for the task's end and return what its handler returned, typed by the return annotation.

        Woken by the change stream; it does not poll. Raises `TaskFailed` with the stored error when the task did not
        succeed, `ResultTimeout` after `timeout_s` seconds (the task goes on; ask again), `TaskGone` when it is not
        stored any more, `UsageError` when the task is deleted at its success. Cancellation: safe.
        """
        document = await self.wait(timeout_s)
        if document["status"] != SUCCEEDED:
            raise failure_of_task(document)
        return self._load(document)

    async def wait(self, timeout_s: float | None = None) -> TaskDocument:
        """Wait for the task's end and return it as it is stored. Raises as `result`, but not `TaskFailed`."""
        require_timeout_s(timeout_s)
        if not self._keeps:
            raise UsageError("keep_s=0 deletes this task at its success: there is no result to wait for")
        services = self._services()
        with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
            await services.watcher.hear_results()
            return await services.waiters.end_of(self.id)
        document = await self._stored()
        if not is_terminal(document["status"]):
            raise late(self.id, document["status"], timeout_s)
        return document

    async def status(self) -> Status:
        """Return the task's status now. Raises `TaskGone`. Trips: 1."""
        return (await self._stored())["status"]

    async def _stored(self) -> TaskDocument:
        services = self._services()
        return require_stored(await services.bridge.call(services.store.get, self.id), self.id)

    async def progress(self) -> Progress | None:
        """Return how far the task is, as its handler last said; None when it has said nothing. Raises `TaskGone`.
        Trips: 1."""
        return progress_of(await self._stored())

    async def cancel(self) -> CancelReply:
        """Cancel the task; see `StreamQ.cancel` for what the reply says. Trips: 2. Cancellation: waited for."""
        services = self._services()
        (reply,) = await services.bridge.call(services.store.cancel, [self.id])
        return reply


class Handles(Sequence[Handle[Any]]):
    """The handles of a put of many, in its order. Each is made when it is looked at, so that those of very many tasks
    take little memory: 14 bytes a task."""

    __slots__ = ("_keeps", "_load", "_replies", "_services")

    def __init__(self, many: PutMany, services: Callable[[], Services], load: Callable[[TaskDocument], Any]) -> None:
        self._replies = many.replies
        self._keeps = many.keeps
        self._services = services
        self._load = load

    def __len__(self) -> int:
        return len(self._replies)

    @overload
    def __getitem__(self, place: int) -> Handle[Any]: ...

    @overload
    def __getitem__(self, place: slice) -> list[Handle[Any]]: ...

    def __getitem__(self, place: int | slice) -> Handle[Any] | list[Handle[Any]]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        reply, keeps = self._replies[place], bool(self._keeps[place])
        return Handle(reply.id, self._services, self._load, outcome=reply.outcome, keeps=keeps)

    def __repr__(self) -> str:
        return f"<Handles of {len(self):,} tasks>"


TaskId = Handle[Any] | PutReply | ObjectId | str
"""How a task can be named: by its handle, the reply of its put, its id, or the id's 24 hex digits."""


def chosen(tasks: TaskId | Iterable[TaskId]) -> tuple[list[ObjectId], bool]:
    """Return the ids, and whether one task was named rather than a list. Raises `OptionInvalid`."""
    if isinstance(tasks, str) or not isinstance(tasks, Iterable):
        return [require_task_id(tasks)], True
    return [require_task_id(one) for one in tasks], False


def require_stored(document: TaskDocument | None, id: ObjectId) -> TaskDocument:
    """Return a task that was read, if it is stored. Raises `TaskGone`."""
    if document is None:
        raise TaskGone(f"task {id} is not stored (any more)")
    return document


def late(id: ObjectId, status: Status, timeout_s: float | None) -> ResultTimeout:
    """Build what waiters hear of a task that goes on."""
    return ResultTimeout(f"task {id} had not ended after timeout_s={timeout_s or 0:g}: it is {status}")


def failure_of_task(document: TaskDocument) -> TaskFailed:
    """Build what waiters for the result of a task hear that did not succeed."""
    errors = document.get("errors")
    if not errors:
        return TaskFailed(document["_id"], document["status"], None, None)
    last = errors[-1]
    return TaskFailed(document["_id"], document["status"], last["type"], last["message"])
