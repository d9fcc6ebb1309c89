"""The queue for asyncio programs: `app.blocking` in threads. Nothing is written twice.

    queues = streamq.asyncio.Door(app)
    await queues.put(send.new("ann@x"))
    async with await queues.queue("ticks").claim(wait_s=math.inf) as task: ...

Each call takes one thread of the loop's default executor while it lasts; a claim or a result that is waited for one of
its own. Cancelling a call does not end its thread at once. A write that was sent may be applied nevertheless; a waiting
claim ends within a quarter of a second, and what it obtained is given back.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, Protocol, Unpack, overload

from bson import ObjectId

from streamq.asyncio_task import AsyncTask, AsyncTransaction
from streamq.asyncio_thread import to_the_end, waiting
from streamq.blocking import Blocking, BlockingQueue, BlockingTask, Recurring
from streamq.core.document import Status, TaskDocument
from streamq.core.moves.cancel import CancelReply
from streamq.core.new_task import NewTask, PutReply
from streamq.core.options import PutOptions, require_count, require_wait_s
from streamq.core.report import Progress
from streamq.errors import StoreError
from streamq.handle import TaskId
from streamq.queue import MOST_CLAIMED

__all__ = ["AsyncQueue", "AsyncTask", "AsyncTransaction", "Door"]


class App(Protocol):
    """What the door needs of an app."""

    @property
    def blocking(self) -> Blocking:
        """The queue for programs without trio."""


class Door:
    """The queue of an app for asyncio: `Door(app)`. Costs nothing; errors and options are those of `app.blocking`.

    What is not here (the desk, schedules, counts) is called by `asyncio.to_thread(app.blocking.desk.find, ...)`.
    """

    def __init__(self, app: App) -> None:
        self._blocking = app.blocking

    def queue(self, name: str) -> AsyncQueue:
        """Return the queue of that name."""
        return AsyncQueue(name, self._blocking)

    async def put(self, new: NewTask, *, session: Any = None) -> PutReply:
        """Put a task made by `handler.new(...)`; as `Blocking.put`. Cancellation: it may be stored nevertheless."""
        return await asyncio.to_thread(lambda: self._blocking.put(new, session=session))

    async def put_many(self, tasks: Iterable[NewTask], *, session: Any = None) -> Sequence[PutReply]:
        """Put many tasks; as `Blocking.put_many`. A generator is drawn in the thread that puts. Cancellation: they may
        be stored nevertheless."""
        return await asyncio.to_thread(lambda: self._blocking.put_many(tasks, session=session))

    async def run_now(self, handler: Recurring) -> PutReply:
        """Put a task of a recurring handler at once; as `Blocking.run_now`. Cancellation: it may be stored."""
        return await asyncio.to_thread(self._blocking.run_now, handler)

    async def result(self, id: TaskId, timeout_s: float | None = None) -> Any:
        """Wait for a task's end and return its result; as `Blocking.result`. Cancellation: safe."""
        document = await self.wait(id, timeout_s)
        return self._blocking.result_of(document)

    async def wait(self, id: TaskId, timeout_s: float | None = None) -> TaskDocument:
        """Wait for a task's end and return it as it is stored; as `Blocking.wait`. Cancellation: safe."""
        stopped = threading.Event()
        try:
            return await waiting(lambda: self._blocking.wait_until(stopped.is_set, id, timeout_s))
        finally:
            stopped.set()

    async def status(self, id: TaskId) -> Status:
        """Return a task's status now; as `Blocking.status`. Cancellation: safe."""
        return await asyncio.to_thread(self._blocking.status, id)

    async def progress(self, id: TaskId) -> Progress | None:
        """Return how far a task is; as `Blocking.progress`. Cancellation: safe."""
        return await asyncio.to_thread(self._blocking.progress, id)

    @overload
    async def cancel(self, tasks: TaskId, /) -> CancelReply: ...  # type: ignore[overload-overlap] # str is iterable

    @overload
    async def cancel(self, tasks: Iterable[TaskId], /) -> dict[ObjectId, CancelReply]: ...

    async def cancel(self, tasks: TaskId | Iterable[TaskId], /) -> CancelReply | dict[ObjectId, CancelReply]:
        """Cancel one task, or many; as `Blocking.cancel`. Cancellation: they may be cancelled nevertheless."""
        return await asyncio.to_thread(self._blocking.cancel, tasks)


class AsyncQueue:
    """One queue for asyncio."""

    def __init__(self, name: str, blocking: Blocking) -> None:
        self.name = name
        self._blocking = blocking

    def __repr__(self) -> str:
        return f"<AsyncQueue {self.name!r}>"

    def _queue(self) -> BlockingQueue:
        return self._blocking.queue(self.name)

    async def put(self, payload: Any, *, session: Any = None, **options: Unpack[PutOptions]) -> PutReply:
        """Put one task with a payload of plain values; as `BlockingQueue.put`. Cancellation: it may be stored."""
        return await asyncio.to_thread(lambda: self._queue().put(payload, session=session, **options))

    async def put_many(
        self, payloads: Iterable[Any], *, session: Any = None, **options: Unpack[PutOptions]
    ) -> Sequence[PutReply]:
        """Put one task a payload, all with the same options; as `Door.put_many`. Cancellation: they may be stored."""
        return await asyncio.to_thread(lambda: self._queue().put_many(payloads, session=session, **options))

    async def claim(self, *, wait_s: float = 0.0, lease_s: float | None = None) -> AsyncTask | None:
        """Claim the next task; None when there is none after `wait_s` seconds; as `BlockingQueue.claim`.

        Cancellation: safe; what the thread obtains is given back. Cancelled a second time meanwhile, its lease ends.
        """
        tasks = await self.claim_many(1, wait_s=wait_s, lease_s=lease_s)
        return tasks[0] if tasks else None

    async def claim_many(self, n: int, *, wait_s: float = 0.0, lease_s: float | None = None) -> list[AsyncTask]:
        """Claim up to `n` tasks by one call; as `BlockingQueue.claim_many`. Cancellation: as `claim`."""
        require_count(n, "n", most=MOST_CLAIMED)
        wait_s = require_wait_s(wait_s)
        stopped = threading.Event()

        def claim() -> list[BlockingTask]:
            return self._queue().claimer(lease_s).claim(n, wait_s, stopped.is_set)

        claiming = waiting(claim) if wait_s else to_the_end(claim)
        try:
            return [AsyncTask(task) for task in await asyncio.shield(claiming)]
        except asyncio.CancelledError:
            stopped.set()
            try:
                obtained = await asyncio.shield(claiming)
            except StoreError:
                obtained = []
            for task in obtained:
                await asyncio.shield(to_the_end(task.give_back))
            raise

    async def pop(self, *, wait_s: float = 0.0) -> AsyncTask | None:
        """Claim the next task and settle it as succeeded at once; as `BlockingQueue.pop`: at most once.

        Cancellation: as `claim`; cancelled while its success is being stored, the task is done and not returned.
        """
        until = asyncio.get_running_loop().time() + require_wait_s(wait_s)
        while task := await self.claim(wait_s=max(0.0, until - asyncio.get_running_loop().time())):
            if await task.popped():
                return task
        return None

    async def consume(self, *, wait_s: float = math.inf, lease_s: float | None = None) -> AsyncGenerator[AsyncTask]:
        """Claim tasks one after the other, until there is none for `wait_s` seconds (by default never):

            async for task in queue.consume():
                async with task:
                    await handle_tick(task.payload)

        Nothing is claimed ahead. When the loop is left, by `break`, an error or a cancellation, a task that was not
        settled is given back, uncounted, as soon as Python closes the generator: at once, unless something refers to
        it (`contextlib.aclosing` closes it in any case).
        """
        while (task := await self.claim(wait_s=wait_s, lease_s=lease_s)) is not None:
            try:
                yield task
            except GeneratorExit:
                await task.give_back()
                raise

    async def pause(self) -> None:
        """Let no task of this queue begin, in any worker, until it is resumed; as `BlockingQueue.pause`."""
        await asyncio.to_thread(lambda: self._queue().pause())

    async def resume(self) -> None:
        """Let tasks of this queue begin again."""
        await asyncio.to_thread(lambda: self._queue().resume())

    async def is_paused(self) -> bool:
        """Say whether this queue is paused."""
        return await asyncio.to_thread(lambda: self._queue().is_paused())
