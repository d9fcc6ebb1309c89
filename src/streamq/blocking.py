"""The queue for programs without trio (Django, Flask, scripts): the same store, plain calls that block.

Nothing runs in the background: a claimed task's lease is extended by calling `extend`. Delayed tasks and ended leases
are seen to by every worker, and by `claim` itself whenever it finds nothing, so that a deployment without a worker
gets stuck nowhere.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Final, ParamSpec, Protocol, TypeVar, Unpack, overload

from bson import ObjectId

from streamq.blocking_claims import Claimer, consumed
from streamq.blocking_desk import BlockingDesk
from streamq.blocking_handler import BlockingHandler
from streamq.blocking_task import BlockingTask
from streamq.blocking_transaction import BlockingTransaction
from streamq.core.document import SUCCEEDED, Status, TaskDocument
from streamq.core.handling import Handling
from streamq.core.moves.cancel import CancelReply
from streamq.core.new_task import NewTask, PutReply, require_accepted
from streamq.core.options import (
    PutOptions,
    require_count,
    require_task_id,
    require_timeout_s,
    require_wait_s,
)
from streamq.core.put_many import PutMany
from streamq.core.report import Progress, progress_of
from streamq.core.schedule import ScheduleInfo
from streamq.core.search import Sought, search_of
from streamq.core.transitions import is_terminal
from streamq.core.unclaimed import Unclaimed
from streamq.desk import dead_of
from streamq.drafting import put_of_tasks, require_new, require_schedule_name, require_switched, task_now
from streamq.ear import Ear
from streamq.errors import UsageError
from streamq.handle import TaskId, chosen, failure_of_task, late, require_stored
from streamq.handler import Handler
from streamq.queue import MOST_CLAIMED, Queue
from streamq.runtime.upkeep import Upkeep
from streamq.store.contract import Store

__all__ = ["Blocking", "BlockingHandler", "BlockingQueue", "BlockingTask", "BlockingTransaction"]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")

END_SLICE_S: Final = 1.0
"""A wait for a task's end looks up this often: by so much it may wait longer than asked."""

LONGEST_S: Final = 86_400.0
"""The lease of who claims nothing: it must not shorten anybody's look at ended leases."""


class Recurring(Protocol):
    """A declared handler, of whatever parameters."""

    @property
    def handling(self) -> Handling:
        """How it is put and run."""


class Blocking:
    """The door of an app without trio: `app.blocking`. Any thread may use it."""

    def __init__(
        self,
        store: Callable[[], Store],
        queue: Callable[[str], Queue],
        load: Callable[[TaskDocument], Any],
        worker_id: str | None,
        place: object,
    ) -> None:
        self._worker_id = worker_id
        self._place = place
        self._load = load
        self._open = store
        self._queue = queue
        self._prepared: Store | None = None
        self.upkeep = Upkeep()

    def queue(self, name: str) -> BlockingQueue:
        """Return the queue of that name. Prepares the server at the first call: doing so later, inside a transaction,
        would make indexes that the transaction's snapshot does not know."""
        self.store()
        return BlockingQueue(self._queue(name), self)

    def handler(self, handler: Handler[P, R, C]) -> BlockingHandler[P]:
        """Return a declared handler to put tasks for, typed like its function:
        `app.blocking.handler(send).put("ann@x")`. Prepares the server at the first call, as `queue` does."""
        self.store()
        return BlockingHandler(handler.handling, lambda new, session: self.put(new, session=session))

    def put(self, new: NewTask, *, session: Any = None) -> PutReply:
        """Put a task made by `handler.new(...)` or `queue.new(...)`; return once it is stored with majority.

        With `session` (of `app.client`, in a transaction) it is stored with the caller's own writes or not at all, and
        the driver's own errors come through, so that `session.with_transaction` can do its work. Raises `PutUnknown`:
        putting the same `new` again is safe. Raises `UniqueConflict`, if `on_conflict="raise"` was asked for. Trips: 1;
        2 or more when another task has its unique key.
        """
        require_new(new, "put", self._place)
        return require_accepted(new, self.store().put([new], session)[0])

    def put_many(self, tasks: Iterable[NewTask], *, session: Any = None) -> Sequence[PutReply]:
        """Put many tasks in chunks; as `StreamQ.put_many`, with replies instead of handles."""
        return self.put_all(put_of_tasks(tasks, session, self._place), session)

    def put_all(self, many: PutMany, session: Any) -> Sequence[PutReply]:
        """Store what `many` yields; for doors of another kind."""
        store = self.store()
        for chunk in many:
            with many.storing():
                replies = store.put(chunk, session)
            many.add(replies)
        return many.replies

    def result(self, id: TaskId, timeout_s: float | None = None) -> Any:
        """Wait for the end of a task (by its id or the id's 24 hex digits) and return its result: as the handler's
        return annotation says if it is declared in this app, else plain values.

        Woken by the change stream; it does not poll. Raises `TaskFailed` with the stored error when the task did not
        succeed, `ResultTimeout` after `timeout_s` seconds (the task goes on; ask again), `TaskGone` when it is not
        stored any more, `UsageError` when the task is deleted at its success.
        """
        return self.result_of(self.wait(id, timeout_s))

    def result_of(self, document: TaskDocument) -> Any:
        """Read the result of a task that has ended. Raises `TaskFailed`."""
        if document["status"] != SUCCEEDED:
            raise failure_of_task(document)
        return self._load(document)

    def wait(self, id: TaskId, timeout_s: float | None = None) -> TaskDocument:
        """Wait for the end of a task and return it as it is stored. Raises as `result`, but not `TaskFailed`. Trips: 1
        when it has ended, else a stream while it waits."""
        return self.wait_until(lambda: False, id, timeout_s)

    def wait_until(self, stopped: Callable[[], bool], id: TaskId, timeout_s: float | None = None) -> TaskDocument:
        """Wait as `wait`, and no longer once `stopped()`, which is asked once a second."""
        id = require_task_id(id)
        timeout_s = require_timeout_s(timeout_s)
        store = self.store()
        document = require_stored(store.get(id), id)
        if is_terminal(document["status"]):
            return document
        if document.get("keep_s") == 0:
            raise UsageError(f"task {id} is deleted at its success (keep_s=0): there is no end to wait for")

        def look() -> tuple[TaskDocument | None, float]:
            document = require_stored(store.wait_for(id, ear.member.id), id)
            return (document if is_terminal(document["status"]) else None), math.inf

        with Ear(store, hears_ends=True, lease_s=LONGEST_S, slice_s=END_SLICE_S, stopped=stopped) as ear:
            ended = ear.wait(look, math.inf if timeout_s is None else timeout_s)
        return ended or self._late(id, timeout_s)

    def _late(self, id: ObjectId, timeout_s: float | None) -> TaskDocument:
        document = require_stored(self.store().get(id), id)
        if not is_terminal(document["status"]):
            raise late(id, document["status"], timeout_s)
        return document

    def status(self, id: TaskId) -> Status:
        """Return a task's status now. Raises `TaskGone`. Trips: 1."""
        id = require_task_id(id)
        return require_stored(self.store().get(id), id)["status"]

    def progress(self, id: TaskId) -> Progress | None:
        """Return how far a task is; as `Handle.progress`. Trips: 1."""
        id = require_task_id(id)
        return progress_of(require_stored(self.store().get(id), id))

    @property
    def worker(self) -> str:
        """What is written on the tasks that are claimed here. Asked at each claim: the program may have forked."""
        return self._worker_id or f"{socket.gethostname()}:{os.getpid()}"

    def run_now(self, handler: Recurring) -> PutReply:
        """Put a task of a recurring handler at once, outside of its slots; as `Handler.run_now`. Trips: 1."""
        return self.put(task_now(handler.handling, None))

    def schedules(self) -> list[ScheduleInfo]:
        """List the stored schedules by name. Trips: 1."""
        return self._open().schedules()

    def disable_schedule(self, name: str) -> None:
        """Fire no more slots of the recurring handler `name`; as `StreamQ.disable_schedule`."""
        require_switched(name, self.store().switch(require_schedule_name(name), False, self.worker))

    def enable_schedule(self, name: str) -> None:
        """Fire the slots of the recurring handler `name` again, from now on; as `StreamQ.enable_schedule`."""
        require_switched(name, self.store().switch(require_schedule_name(name), True, self.worker))

    @property
    def desk(self) -> BlockingDesk:
        """Where to look at stored tasks and put them right: find, export, requeue, delete, purge."""
        return BlockingDesk(self._open)

    @property
    def dead_letters(self) -> BlockingDesk:
        """The same for failed tasks in their `dead_letter_collection`; as `StreamQ.dead_letters`."""
        return BlockingDesk(lambda: dead_of(self._open()))

    def unclaimed(self) -> list[Unclaimed]:
        """Count ready tasks whose handler no live worker knows, by queue and handler; as `StreamQ.unclaimed`. Programs
        that claim by `app.blocking` are no workers here. Trips: 2."""
        return self._open().unclaimed()

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Count the stored tasks as `{queue: {status: n}}`. Reads every task. Trips: 1."""
        return self._open().counts()

    def find(self, *, limit: int = 20, **sought: Unpack[Sought]) -> list[TaskDocument]:
        """List tasks as they are stored, newest first; as `StreamQ.find`."""
        search = search_of(sought)
        return self._open().find(search, limit=require_count(limit, "limit"))

    @overload
    def cancel(self, tasks: TaskId, /) -> CancelReply: ...  # type: ignore[overload-overlap] # str is iterable

    @overload
    def cancel(self, tasks: Iterable[TaskId], /) -> dict[ObjectId, CancelReply]: ...

    def cancel(self, tasks: TaskId | Iterable[TaskId], /) -> CancelReply | dict[ObjectId, CancelReply]:
        """Cancel one task, or many, by handle or id; as `StreamQ.cancel`."""
        ids, one = chosen(tasks)
        replies = self.store().cancel(ids)
        return replies[0] if one else dict(zip(ids, replies, strict=True))

    def uses(self, store: Store) -> bool:
        """Say whether calls have been made on `store`."""
        return self._prepared is store

    def store(self) -> Store:
        """Return the store, prepared at the first call."""
        store = self._open()
        if self._prepared is not store:
            store.prepare()
            self._prepared = store
        return store


class BlockingQueue:
    """One queue without trio."""

    def __init__(self, queue: Queue, door: Blocking) -> None:
        self.name = queue.name
        self._queue = queue
        self._door = door
        self._settings = queue.settings

    def __repr__(self) -> str:
        return f"<BlockingQueue {self.name!r}>"

    def put(self, payload: Any, *, session: Any = None, **options: Unpack[PutOptions]) -> PutReply:
        """Put one task with a payload of plain values; as `Blocking.put`. Raises what `Queue.new` raises."""
        return self._door.put(self._queue.new(payload, **options), session=session)

    def put_many(
        self, payloads: Iterable[Any], *, session: Any = None, **options: Unpack[PutOptions]
    ) -> Sequence[PutReply]:
        """Put one task a payload, all with the same options; as `Blocking.put_many`."""
        return self._door.put_all(self._queue.many(payloads, session, **options), session)

    def claim(self, *, wait_s: float = 0.0, lease_s: float | None = None) -> BlockingTask | None:
        """Claim the next task; None when there is none after `wait_s` seconds (`math.inf`: wait for ever). A waiting
        claim is woken by the stream, it does not poll.

        The lease is `lease_s` seconds (by default its handler's own, else the app's) and is not extended by itself:
        call `extend` in time. A payload that does not decode fails its task, and the next is claimed. Trips: 2; when
        there is nothing 1 and a look for what is due, and a stream while it waits; of a queue with limits more.

        Workers learn of leases shorter than their own only from each other: should this program die, the end of a
        shorter lease given here is noticed after their own lease at the latest.
        """
        tasks = self.claim_many(1, wait_s=wait_s, lease_s=lease_s)
        return tasks[0] if tasks else None

    def claim_many(self, n: int, *, wait_s: float = 0.0, lease_s: float | None = None) -> list[BlockingTask]:
        """Claim up to `n` tasks (1 to 1,000) by one call, in order; as `claim`.

        When there is none it waits at most `wait_s` seconds and returns what is there then; it does not wait until
        there are `n`. All of them have the lease from now on: the last one must be settled or extended in time too.
        """
        require_count(n, "n", most=MOST_CLAIMED)
        return self.claimer(lease_s).claim(n, require_wait_s(wait_s))

    def pause(self) -> None:
        """Let no task of this queue begin, in any worker, until it is resumed; as `Queue.pause`."""
        self._door.store().pause(self.name, True)

    def resume(self) -> None:
        """Let tasks of this queue begin again. Idempotent. Trips: 2."""
        self._door.store().pause(self.name, False)

    def is_paused(self) -> bool:
        """Say whether this queue is paused. Trips: 1."""
        return bool(self._door.store().paused([self.name]))

    def claimer(self, lease_s: float | None = None) -> Claimer:
        """Make what claims tasks of this queue, as `claim` does: for a door of another kind."""
        door, (own_s, leases) = self._door, self._queue.leases(lease_s)
        return Claimer(
            self.name,
            door.store(),
            door.upkeep,
            lambda: door.worker,
            self._settings,
            own_s,
            leases,
            self._queue.limits,
        )

    def pop(self, *, wait_s: float = 0.0) -> BlockingTask | None:
        """Claim the next task and settle it as succeeded at once: at most once, for what may be lost rather than done
        twice. The task is returned, with its `payload` and `info`, when its success is stored; None as by `claim`.

        Raises `OutcomeUnknown` when it is not known whether that is stored. Trips: 3.
        """
        until = time.monotonic() + require_wait_s(wait_s)
        while (task := self.claim(wait_s=max(0.0, until - time.monotonic()))) is not None:
            if task.popped():
                return task
        return None

    def consume(self, *, wait_s: float = math.inf, lease_s: float | None = None) -> Generator[BlockingTask]:
        """Claim tasks one after the other, until there is none for `wait_s` seconds (by default never):

            for task in app.blocking.queue("ticks").consume():
                with task:
                    handle_tick(task.payload)

        Nothing is claimed ahead. When the loop is left, by `break` or an error, a task that was not settled is given
        back, uncounted. Leases and errors as of `claim`.
        """
        return consumed(self.claimer(lease_s), require_wait_s(wait_s))
