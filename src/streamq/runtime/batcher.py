"""Group commit: what arrives while a write is in flight rides in the next one.

    put ──┐                 idle: the first goes out at once, alone, in its own task;
    put ──┤→ waiting → write (one in flight) → answers
    put ──┘                 busy: what gathers meanwhile goes together.

No timer, so nothing waits that could go; under load the batch grows by itself to what the server takes in one
round trip. Those whose answers came together put again together: the next batch lets each of them run once (two turns
of trio's loop, some 20 us) before it goes. Without that the first of them would go alone, and the others wait for a
round trip that one item has for itself: half of all round trips.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import msgspec
import trio

from streamq.errors import OutcomeUnknown, StreamQError, UsageError

T = TypeVar("T")
R = TypeVar("R")


class Entry(msgspec.Struct, Generic[T, R], eq=False):
    """One item on its way; `answer` or `error` is there when its submitter is woken."""

    item: T
    sent: bool = False
    submitter: trio.lowlevel.Task | None = None  # only one that waits
    answer: R | None = None
    error: Exception | None = None


Write = Callable[[Sequence[T]], Awaitable[Sequence["R | Exception"]]]


class Batcher(Generic[T, R]):
    """Runs as one task (`run`); any number of tasks submit.

    `write` gets up to `most` items and answers for each, in order, with a result or an exception. `lead` does the same
    for one item in its submitter's own task, who may be cancelled: it raises `Cancelled` only if nothing was sent.
    """

    def __init__(self, write: Write[T, R], lead: Write[T, R], most: int) -> None:
        self._write = write
        self._lead = lead
        self._most = most
        self._waiting: deque[Entry[T, R]] = deque()
        self._in_flight: list[Entry[T, R]] = []
        self._gathering = False
        self._ended = False
        self._idle = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    @property
    def backlog(self) -> int:
        """How many items have no answer yet."""
        return len(self._waiting) + len(self._in_flight)

    def push(self, item: T) -> Entry[T, R]:
        """Add an item without waiting for its answer. After the end of `run` it never comes."""
        entry: Entry[T, R] = Entry(item)
        self._waiting.append(entry)
        if not (self._in_flight or self._gathering):  # else whoever writes goes on, or wakes who does
            self._idle.unpark()
        return entry

    async def submit(self, item: T) -> R:
        """Add an item and wait for its answer.

        Cancellation: an item that was not sent yet is withdrawn; once sent, the answer is waited for and returned,
        so that a cancelled caller never leaves something stored without knowing it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._ended:
            raise _left()
        if not (self._waiting or self._in_flight or self._gathering):
            return await self._go_first(item)
        entry = self.push(item)
        entry.submitter = trio.lowlevel.current_task()

        def withdraw(_: object) -> trio.lowlevel.Abort:
            if entry.sent:
                return trio.lowlevel.Abort.FAILED
            self._waiting.remove(entry)
            return trio.lowlevel.Abort.SUCCEEDED

        # An Event would do the same in thrice the time.
        await trio.lowlevel.wait_task_rescheduled(withdraw)
        return _outcome(entry)

    async def _go_first(self, item: T) -> R:
        """Write the first item in its submitter's own task: at idle that spares a switch of tasks each way."""
        entry: Entry[T, R] = Entry(item)
        entry.sent = True
        try:
            await self._send([entry], self._lead)
        finally:
            if self._waiting:
                self._idle.unpark()
        return _outcome(entry)

    async def has_room(self, limit: int) -> None:
        """Wait until fewer than `limit` items are without an answer. Cancellation: safe."""
        while self.backlog >= limit:
            await self._room.park()

    async def run(self) -> None:
        """Write batches for ever. Cancellation: safe between writes; a write decides for itself. Whoever still waits
        then is told."""
        try:
            while True:
                if not self._waiting or self._in_flight:
                    await self._idle.park()
                    continue
                await trio.lowlevel.checkpoint_if_cancelled()
                batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                for entry in batch:
                    entry.sent = True
                await self._send(batch, self._write)
                if len(batch) > 1 and any(entry.submitter is not None for entry in batch):
                    await self._gather()
        finally:
            self._end()

    async def _gather(self) -> None:
        """Let those run that were just answered: on the first turn they may come after this task, on the second each
        has run."""
        self._gathering = True
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        self._gathering = False

    async def _send(self, batch: list[Entry[T, R]], write: Write[T, R]) -> None:
        self._in_flight = batch
        try:
            answers = await write([entry.item for entry in batch])
        except BaseException:
            for entry in batch:
                _answer(entry, OutcomeUnknown("the app was left before the server answered"))
            raise
        finally:
            self._in_flight = []
        for entry, answer in zip(batch, answers, strict=True):
            _answer(entry, answer)
        if self._room:
            self._room.unpark_all()

    def _end(self) -> None:
        """Let nobody wait for an answer that will not come: a submitter may outlive the app it put through."""
        self._ended = True
        for entry in self._waiting:
            entry.sent = True  # there is nothing to withdraw it from any more
            _answer(entry, _left())
        self._waiting.clear()
        self._room.unpark_all()


def _answer(entry: Entry[T, R], answer: R | Exception) -> None:
    if isinstance(answer, Exception):
        entry.error = answer
    else:
        entry.answer = answer
    if entry.submitter is not None:
        trio.lowlevel.reschedule(entry.submitter)


def _outcome(entry: Entry[T, R]) -> R:
    if entry.error is not None:
        raise entry.error
    return entry.answer  # type: ignore[return-value]


def _left() -> StreamQError:
    return UsageError("the app was left before this was sent; nothing was stored")
