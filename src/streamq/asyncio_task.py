"""A claimed task in the hands of an asyncio program: a `BlockingTask`, its calls in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from streamq.asyncio_thread import to_the_end
from streamq.blocking_task import BlockingTask
from streamq.errors import LeaseLost, StoreError
from streamq.runtime.current import TaskInfo

T = TypeVar("T")

BEATS_A_LEASE: Final = 3
"""Two beats may fail before a lease is in danger."""


class AsyncTask:
    """A claimed task. Settle it once: by a method, or by leaving `async with task:`, which extends its lease meanwhile.

    When the lease is lost all the same, the body is cancelled and the block raises `LeaseLost`. When somebody wants the
    task cancelled, the body is cancelled at the next extension (there is one at each third of the lease), the block
    ends without an error, and the task ends in `cancelled`.

    Cancellation of a method: its write may be applied nevertheless.
    """

    def __init__(self, task: BlockingTask) -> None:
        self._task = task
        self._extending: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[bool] | None = None
        self._call: asyncio.Task[Any] | None = None
        self._beat: asyncio.Task[bool] | None = None
        self._undisturbed = asyncio.Lock()  # while it is held no beat is sent
        self._lost = False
        self._is_to_end = False  # somebody wants it cancelled, and the body was told
        self.info: TaskInfo = task.info
        self.payload: Any = task.payload

    def __repr__(self) -> str:
        return f"<AsyncTask {self.info.id} of {self.info.queue!r}, attempt {self.info.attempt}>"

    async def succeed(self, result: Any = None) -> None:
        """Settle as succeeded. Raises `LeaseLost`."""
        await self._do(lambda: self._task.succeed(result))

    async def fail(self, error: str | BaseException, *, retry: bool = True) -> None:
        """Settle as failed: tried again after a backoff while attempts are left, unless `retry` is False."""
        await self._do(lambda: self._task.fail(error, retry=retry))

    async def release(self, delay_s: float = 0.0) -> None:
        """Give the task back, to start no sooner than `delay_s` seconds from now; the attempt is not counted."""
        await self._do(lambda: self._task.release(delay_s))

    async def snooze(self, delay_s: float) -> None:
        """Give the task back for `delay_s` seconds; the attempt is not counted."""
        await self._do(lambda: self._task.snooze(delay_s))

    async def cancel(self, reason: str = "") -> None:
        """End the task in `cancelled`."""
        await self._do(lambda: self._task.cancel(reason))

    async def progress(self, value: float, note: str = "") -> None:
        """Store how far the task is and renew the lease; as `BlockingTask.progress`. Raises `LeaseLost`."""
        await self._do(lambda: self._task.progress(value, note))

    async def cancel_asked(self) -> bool:
        """Ask whether somebody wants it cancelled; as `BlockingTask.cancel_asked`."""
        return await self._do(self._task.cancel_asked)

    async def extend(self, lease_s: float | None = None) -> bool:
        """Extend the lease to `lease_s` seconds from now; return True when somebody wants the task cancelled. Raises
        `LeaseLost`."""
        return await self._do(lambda: self._task.extend(lease_s))

    def transaction(self) -> AsyncTransaction:
        """Make a transaction in which the task succeeds; as `BlockingTask.transaction`:

            async with task.transaction() as session:
                await asyncio.to_thread(lambda: orders.update_one(..., session=session))

        `session` is of `app.client`, which blocks: hence the thread. No beat extends the lease meanwhile: it was
        extended past the longest life of a transaction.
        """
        return AsyncTransaction(self._task, self._undisturbed)

    async def run_in_transaction(self, function: Callable[[Any], T]) -> T:
        """Run `function(session)` in a thread, in a transaction in which the task succeeds, and commit; as
        `BlockingTask.run_in_transaction`. Cancellation: it may be committed nevertheless."""
        async with self._undisturbed:
            return await self._do(lambda: self._task.run_in_transaction(function))

    async def popped(self) -> bool:
        """Settle as succeeded, before anything was done; as `BlockingTask.popped`."""
        return await self._do(self._task.popped)

    async def give_back(self) -> None:
        """Release the task if it was not settled, uncounted: for whoever leaves it. A block of its own that is being
        left settles it, and so does a call that was made before."""
        if self._extending is None:
            if self._call is not None:
                await asyncio.wait([self._call])
            await asyncio.shield(to_the_end(self._task.give_back))

    async def _do(self, function: Callable[[], T]) -> T:
        self._call = call = to_the_end(function)
        return await asyncio.shield(call)

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
        self._leaving = asyncio.create_task(self._leave(body, kind, error, trace))
        return await asyncio.shield(self._leaving)

    async def _leave(
        self,
        body: asyncio.Task[Any],
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        assert self._extending is not None
        self._extending.cancel()
        before = [one for one in (self._extending, self._beat, self._call) if one is not None]
        await asyncio.wait(before)  # a settlement comes after what was sent before it
        was_told = self._lost or self._is_to_end
        others = was_told and body.uncancel() > 0  # whether somebody else cancelled it too
        is_cancelled = isinstance(error, asyncio.CancelledError)
        if self._lost:
            if is_cancelled and others:
                return False
            raise LeaseLost(self.info.id) from error
        if self._is_to_end and error is not None and not self._task.is_settled:
            await asyncio.to_thread(self._task.cancel, "" if is_cancelled else f"{type(error).__name__}: {error}")
            return isinstance(error, Exception) or (is_cancelled and not others)
        swallowed = await asyncio.to_thread(self._task.__exit__, kind, error, trace)
        return swallowed or (is_cancelled and was_told and not others)

    async def _extend_on(self, body: asyncio.Task[Any]) -> None:
        while True:
            await asyncio.sleep(self._task.lease_s / BEATS_A_LEASE)
            async with self._undisturbed:
                if self._task.is_settled:
                    return
                self._beat = to_the_end(self._task.extend)
                try:
                    is_asked = await asyncio.shield(self._beat)
                except LeaseLost:
                    if self._call is not None:
                        await asyncio.wait([self._call])  # a settlement that is on its way is why, if there is one
                    if not self._task.is_settled and self._leaving is None:
                        self._lost = True
                        body.cancel()
                    return
                except StoreError:
                    continue  # two beats may fail before the lease is in danger
            if is_asked and not self._is_to_end and self._leaving is None:
                self._is_to_end = True
                body.cancel()


class AsyncTransaction:
    """`async with task.transaction() as session:`; see `AsyncTask.transaction`. `result` is stored as its result.

    Cancellation: it is begun and ended to the end; a block that was cancelled aborts it.
    """

    def __init__(self, task: BlockingTask, undisturbed: asyncio.Lock) -> None:
        self._transaction = task.transaction()
        self._undisturbed = undisturbed

    @property
    def result(self) -> Any:
        """What is stored as the task's result."""
        return self._transaction.result

    @result.setter
    def result(self, result: Any) -> None:
        self._transaction.result = result

    async def __aenter__(self) -> Any:
        """Extend the lease past the transaction's longest life, and begin. Raises `LeaseLost`, `StoreError`."""
        await self._undisturbed.acquire()
        beginning = to_the_end(self._transaction.__enter__)
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError as cancelled:
            await asyncio.wait([beginning])
            if beginning.exception() is None:
                await self.__aexit__(type(cancelled), cancelled, None)
            else:
                self._undisturbed.release()
            raise
        except BaseException:
            self._undisturbed.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Settle and commit, or abort when the block raised."""
        ending = to_the_end(lambda: self._transaction.__exit__(kind, error, trace))
        ending.add_done_callback(lambda _: self._undisturbed.release())
        await asyncio.shield(ending)
