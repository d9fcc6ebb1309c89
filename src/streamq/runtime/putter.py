"""Putting from trio: single puts ride together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from streamq.bridge import Bridge
from streamq.core.new_task import NewTask, PutReply, require_accepted
from streamq.errors import AccessRefused, PutUnknown, StoreError, StoreUnavailable, StreamQError
from streamq.runtime.batcher import Batcher
from streamq.store.contract import Store

MOST_A_BATCH = 1_000


class Putter:
    """Stores tasks through one batcher, and tells this process's own consumers without waiting for the stream."""

    def __init__(self, store: Store, bridge: Bridge, stored: Callable[[Sequence[NewTask]], None]) -> None:
        self._store = store
        self._bridge = bridge
        self._stored = stored
        self.batcher: Batcher[NewTask, PutReply] = Batcher(self._write, MOST_A_BATCH)

    async def put(self, new: NewTask) -> PutReply:
        """Store one task. Raises `UniqueConflict`. Cancellation: withdrawn before it is sent, else stored and
        returned."""
        if new.options.unique_for_s is None:
            return require_accepted(new, await self.batcher.submit(new))
        await trio.lowlevel.checkpoint_if_cancelled()
        # It takes a transaction of its own, which the puts of others do not wait for.
        (answer,) = await self._write([new])
        if isinstance(answer, Exception):
            raise answer
        return require_accepted(new, answer)

    async def put_many(self, tasks: Sequence[NewTask]) -> list[PutReply]:
        """Store many in chunks of their own; see `StreamQ.put_many`. Cancellation: safe between chunks."""
        replies: list[PutReply] = []
        # With parents in one call: the store refuses one that is not there before it stores anything.
        most = len(tasks) if any(one.options.has_parents for one in tasks) else MOST_A_BATCH
        for start in range(0, len(tasks), max(1, most)):
            chunk = tasks[start : start + most]
            try:
                answers = await self._bridge.call(self._store.put, chunk)
            except PutUnknown as error:
                raise PutUnknown([one.id for one in tasks[start:]], error.reason) from error
            except StoreError as error:
                if not start:
                    raise
                # With parts of the put stored, "nothing has changed" would be false.
                raise PutUnknown([one.id for one in tasks[start:]], str(error)) from error
            self._tell(chunk, answers)
            replies += answers
        return replies

    async def _write(self, tasks: Sequence[NewTask]) -> Sequence[PutReply | Exception]:
        try:
            # Shielded: what was taken up is sent and answered, also while the app is being left; the store bounds it.
            with trio.CancelScope(shield=True):
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
        self._stored([one for one, reply in zip(tasks, replies, strict=True) if reply.id == one.id])


def _unknown(new: NewTask, error: PutUnknown) -> PutUnknown:
    own = PutUnknown([new.id], error.reason)
    own.__cause__ = error
    return own
