"""A queue by name: bare payloads in, bare tasks out."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Unpack

from streamq.core.codec import from_stored
from streamq.core.document import TaskDocument
from streamq.core.handling import BareSettings
from streamq.core.new_task import NewTask, PutReply
from streamq.core.options import PutOptions, options_of, require_count, require_lease_s
from streamq.drafting import NO_OPTIONS, task_of_payload
from streamq.handle import Handle
from streamq.handler import Door
from streamq.runtime.consumer import Tasks, consuming
from streamq.runtime.intake import Wants


class Queue:
    """One queue of an app. Made by `app.queue(name)`; costs nothing."""

    def __init__(self, name: str, settings: BareSettings, door: Door) -> None:
        self.name = name
        self.settings = settings
        self._door = door

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"

    def new(self, payload: Any, **options: Unpack[PutOptions]) -> NewTask:
        """Build a task without putting it. Raises `PayloadInvalid`, `PayloadTooLarge`, `OptionInvalid`."""
        chosen = options_of(options) if options else NO_OPTIONS
        return task_of_payload(self.name, payload, chosen, self.settings, self._door.reply_to)

    async def put(self, payload: Any, *, session: Any = None, **options: Unpack[PutOptions]) -> Handle[Any]:
        """Put one task with a payload of plain values; return once it is stored with majority.

        With `session` (of the app's own client, in a transaction) it is stored with the caller's own writes or not at
        all, and wakes consumers at the commit; the driver's own errors then come through, so that
        `session.with_transaction` can do its work. Errors and cancellation else: as `Handler.put`.
        """
        new = self.new(payload, **options)
        services = self._door.services()
        if session is None:
            reply = await services.putter.put(new)
        else:
            (reply,) = await services.bridge.call(services.store.put, [new], session)
        return self._handle(new, reply)

    async def put_many(self, payloads: Iterable[Any], **options: Unpack[PutOptions]) -> list[Handle[Any]]:
        """Put one task a payload, all with the same options; see `StreamQ.put_many` for what an error means."""
        tasks = [self.new(payload, **options) for payload in payloads]
        replies = await self._door.services().putter.put_many(tasks)
        return [self._handle(new, reply) for new, reply in zip(tasks, replies, strict=True)]

    def consume(self, *, prefetch: int = 1, lease_s: float | None = None) -> AbstractAsyncContextManager[Tasks]:
        """Claim tasks for the body of the block, of handlers or bare:

            async with app.queue("ticks").consume(prefetch=64) as tasks:
                async for task in tasks:
                    async with task:
                        handle_tick(task.payload)

        `prefetch` tasks wait in the process beyond those in hand (0: claim only when asked; tasks with one attempt
        never wait). Leases are extended while tasks are held. On leaving the block what was not settled is released,
        uncounted. Entering returns once no later put can be missed.
        """
        lease_s = self.settings.lease_s if lease_s is None else require_lease_s(lease_s)
        require_count(prefetch, "prefetch", least=0)
        services = self._door.services()
        wants = Wants(queue=self.name, worker=services.worker, lease_s=lease_s, spare=prefetch)
        return consuming(services, wants, self.settings)

    def _handle(self, new: NewTask, reply: PutReply) -> Handle[Any]:
        def load(document: TaskDocument) -> Any:
            return from_stored(document.get("result"))

        return Handle(reply.id, self._door.services, load, created=reply.created, keeps=new.keep_s != 0)
