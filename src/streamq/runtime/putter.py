"""Putting from trio: single puts ride together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import trio

from streamq.bridge import Bridge
from streamq.core.new_task import NewTask, PutReply, require_accepted
from streamq.core.put_many import MOST_A_CHUNK, PutMany
from streamq.errors import AccessRefused, PutUnknown, StoreUnavailable, StreamQError
from streamq.runtime.batcher import Batcher
from streamq.store.contract import Store


class Putter:
    """Stores tasks through one batcher, and tells this process's own consumers without waiting for the stream."""

    def __init__(self, store: Store, bridge: Bridge, stored: Callable[[Iterable[NewTask]], None]) -> None:
        self._store = store
        self._bridge = bridge
        self._stored = stored
        self.batcher: Batcher[NewTask, PutReply] = Batcher(self._write_surely, self._write, MOST_A_CHUNK)

    async def put(self, new: NewTask, session: Any = None) -> PutReply:
        """Store one task, with `session` as part of the caller's transaction. Raises `UniqueConflict`. Cancellation:
        withdrawn before it is sent, else stored and returned."""
        if session is not None:
            (reply,) = await self._bridge.call(self._store.put, [new], session)
            return require_accepted(new, reply)
        if new.options.unique_for_s is None:
            return require_accepted(new, await self.batcher.submit(new))
        await trio.lowlevel.checkpoint_if_cancelled()
        # It takes a transaction of its own, which the puts of others do not wait for.
        (answer,) = await self._write_surely([new])
        if isinstance(answer, Exception):
            raise answer
        return require_accepted(new, answer)

    async def put_many(self, many: PutMany, session: Any = None) -> None:
        """Store many in chunks of their own; see `StreamQ.put_many`. Cancellation: safe between chunks."""
        for chunk in many:
            with many.storing():
                replies = await self._bridge.call(self._store.put, chunk, session)
            many.add(replies)
            if session is None:
                self._tell(chunk, replies)

    async def _write_surely(self, tasks: Sequence[NewTask]) -> Sequence[PutReply | Exception]:
        # Shielded: what was taken up is sent and answered, also while the app is being left; the store bounds it.
        answers: list[PutReply | Exception] = []
        with trio.CancelScope(shield=True):
            answers += await self._write(tasks)
        return answers

    async def _write(self, tasks: Sequence[NewTask]) -> Sequence[PutReply | Exception]:
        try:
            replies = await self._bridge.call(self._store.put, tasks)
        except PutUnknown as error:
            return [_unknown(one, error) for one in tasks]
        except (StoreUnavailable, AccessRefused) as error:
            return [error] * len(tasks)
        except StreamQError as error:
            if len(tasks) == 1:
                return [error]
            # One of them is at fault (a document the server refuses, say): ask for each, so that it alone hears of it.
            # Those stored already are recognised by their ids.
            return [answer for one in tasks for answer in await self._write([one])]
        self._tell(tasks, replies)
        return replies

    def _tell(self, tasks: Sequence[NewTask], replies: Sequence[PutReply]) -> None:
        # Not of those that met a task with their unique key: nothing is stored under their ids.
        self._stored(one for one, reply in zip(tasks, replies, strict=True) if reply.id == one.id)


def _unknown(new: NewTask, error: PutUnknown) -> PutUnknown:
    own = PutUnknown([new.id], error.reason)
    own.__cause__ = error
    return own
