"""The queue for asyncio programs: `app.blocking` in threads, by `asyncio.to_thread`. Nothing is written twice.

    queues = streamq.asyncio.Door(app)
    await queues.put(send.new("ann@x"))
    async with await queues.queue("ticks").claim(wait_s=math.inf) as task: ...

Each call takes one thread of the loop's default executor while it lasts: a claim or a result that is waited for, too.
Cancelling a call does not end its thread at once. A write that was sent may be applied nevertheless; a waiting claim
ends within a quarter of a second, and what it obtained is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncGenerator, Iterable
from types import TracebackType
from typing import Any, Protocol, Self, Unpack

from bson import ObjectId

from streamq.blocking import Blocking, BlockingQueue, BlockingTask
from streamq.core.document import Status, TaskDocument
from streamq.core.new_task import NewTask, PutReply
from streamq.core.options import PutOptions, require_count, require_wait_s
from streamq.errors import LeaseLost, StoreError
from streamq.queue import MOST_CLAIMED
from streamq.runtime.current import TaskInfo

BEATS_A_LEASE = 3


class App(Protocol):
    """What the door needs of an app."""

    @property
    def blocking(self) -> Blocking:
        """The queue for programs without trio."""


class Door:
    """The queue of an app for asyncio: `Door(app)`. Costs nothing; errors and options are those of `app.blocking`."""

    def __init__(self, app: App) -> None:
        self._blocking = app.blocking

    def queue(self, name: str) -> AsyncQueue:
        """Return the queue of that name."""
        return AsyncQueue(name, self._blocking)

    async def put(self, new: NewTask) -> PutReply:
        """Put a task made by `handler.new(...)`; as `Blocking.put`. Cancellation: it may be stored nevertheless."""
        return await asyncio.to_thread(self._blocking.put, new)

    async def put_many(self, tasks: Iterable[NewTask]) -> list[PutReply]:
        """Put many tasks; as `Blocking.put_many`. Cancellation: they may be stored nevertheless."""
        return await asyncio.to_thread(self._blocking.put_many, tasks)

    async def result(self, id: ObjectId | str, timeout_s: float | None = None) -> Any:
        """Wait for a task's end and return its result; as `Blocking.result`. Cancellation: safe."""
        document = await self.wait(id, timeout_s)
        return self._blocking.result_of(document)

    async def wait(self, id: ObjectId | str, timeout_s: float | None = None) -> TaskDocument:
        """Wait for a task's end and return it as it is stored; as `Blocking.wait`. Cancellation: safe."""
        stopped = threading.Event()
        try:
            return await asyncio.to_thread(self._blocking.wait_until, stopped.is_set, id, timeout_s)
        finally:
            stopped.set()

    async def status(self, id: ObjectId | str) -> Status:
        """Return a task's status now; as `Blocking.status`. Cancellation: safe."""
        return await asyncio.to_thread(self._blocking.status, id)


class AsyncQueue:
    """One queue for asyncio."""

    def __init__(self, name: str, blocking: Blocking) -> None:
        self.name = name
        self._blocking = blocking

    def __repr__(self) -> str:
        return f"<AsyncQueue {self.name!r}>"

    def _queue(self) -> BlockingQueue:
        return self._blocking.queue(self.name)

    async def put(self, payload: Any, **options: Unpack[PutOptions]) -> PutReply:
        """Put one task with a payload of plain values; as `BlockingQueue.put`. Cancellation: it may be stored."""
        return await asyncio.to_thread(lambda: self._queue().put(payload, **options))

    async def put_many(self, payloads: Iterable[Any], **options: Unpack[PutOptions]) -> list[PutReply]:
        """Put one task a payload, all with the same options. Cancellation: they may be stored."""
        return await asyncio.to_thread(lambda: self._queue().put_many(payloads, **options))

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

        claiming = asyncio.ensure_future(asyncio.to_thread(claim))
        try:
            return [AsyncTask(task) for task in await asyncio.shield(claiming)]
        except asyncio.CancelledError:
            stopped.set()
            with contextlib.suppress(StoreError):
                for task in await asyncio.shield(claiming):
                    await asyncio.shield(asyncio.to_thread(task.give_back))
            raise

    async def consume(self, *, wait_s: float = math.inf, lease_s: float | None = None) -> AsyncGenerator[AsyncTask]:
        """Claim tasks one after the other, until there is none for `wait_s` seconds (by default never):

            async for task in queue.consume():
                async with task:
                    await handle_tick(task.payload)

        Nothing is claimed ahead. A task that was not settled when the loop is left keeps its lease until that ends.
        """
        while (task := await self.claim(wait_s=wait_s, lease_s=lease_s)) is not None:
            yield task


class AsyncTask:
    """A claimed task. Settle it once: by a method, or by leaving `async with task:`, which extends its lease meanwhile.

    Cancellation of a method: its write may be applied nevertheless.
    """

    def __init__(self, task: BlockingTask) -> None:
        self._task = task
        self._extending: asyncio.Task[None] | None = None
        self._lost = False
        self.info: TaskInfo = task.info
        self.payload: Any = task.payload

    def __repr__(self) -> str:
        return f"<AsyncTask {self.info.id} of {self.info.queue!r}, attempt {self.info.attempt}>"

    async def succeed(self, result: Any = None) -> None:
        """Settle as succeeded. Raises `LeaseLost`."""
        await asyncio.to_thread(self._task.succeed, result)

    async def fail(self, error: str | BaseException, *, retry: bool = True) -> None:
        """Settle as failed: tried again after a backoff while attempts are left, unless `retry` is False."""
        await asyncio.to_thread(lambda: self._task.fail(error, retry=retry))

    async def release(self) -> None:
        """Give the task back at once; the attempt is not counted."""
        await asyncio.to_thread(self._task.release)

    async def snooze(self, delay_s: float) -> None:
        """Give the task back for `delay_s` seconds; the attempt is not counted."""
        await asyncio.to_thread(self._task.snooze, delay_s)

    async def cancel(self, reason: str = "") -> None:
        """End the task in `cancelled`."""
        await asyncio.to_thread(self._task.cancel, reason)

    async def extend(self, lease_s: float | None = None) -> None:
        """Extend the lease to `lease_s` seconds from now. Raises `LeaseLost`."""
        await asyncio.to_thread(self._task.extend, lease_s)

    async def __aenter__(self) -> Self:
        body = asyncio.current_task()
        assert body is not None
        self._extending = asyncio.create_task(self._extend_on(body))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Settle by how the block was left, as `BlockingTask.__exit__`; a block that was cancelled releases its task.

        Raises `LeaseLost`, also when the lease was lost meanwhile: then the body was cancelled.
        """
        body = asyncio.current_task()
        assert body is not None
        # Once begun it goes on, cancelled or not: what is done must not be left to the lease's end.
        return await asyncio.shield(self._leave(body, kind, error, trace))

    async def _leave(
        self,
        body: asyncio.Task[Any],
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        extending = self._extending
        assert extending is not None
        extending.cancel()
        await asyncio.wait([extending])
        if self._lost:
            if isinstance(error, asyncio.CancelledError) and body.uncancel() > 0:
                return False  # somebody else cancelled it too
            raise LeaseLost(self.info.id) from error
        return await asyncio.to_thread(self._task.__exit__, kind, error, trace)

    async def _extend_on(self, body: asyncio.Task[Any]) -> None:
        while True:
            await asyncio.sleep(self._task.lease_s / BEATS_A_LEASE)
            try:
                # Not left half way: its settlement comes after it.
                await asyncio.shield(asyncio.to_thread(self._task.extend))
            except LeaseLost:
                if not self._task.is_settled:
                    self._lost = True
                    body.cancel()
                return
            except StoreError:
                continue  # two beats may fail before the lease is in danger
