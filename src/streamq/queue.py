"""A queue by name: bare payloads in, bare tasks out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Unpack

from streamq.core.codec import from_stored
from streamq.core.document import TaskDocument
from streamq.core.handling import BareSettings
from streamq.core.limits import Limits
from streamq.core.new_task import NewTask
from streamq.core.options import NO_OPTIONS, PutOptions, options_of, require_count, require_lease_s, require_wait_s
from streamq.core.put_many import PutMany
from streamq.drafting import BareDraft, put_of_payloads, task_of_payload
from streamq.handle import Handle, Handles
from streamq.handler import Door
from streamq.runtime.consumer import Task, Tasks, consuming, picked, popped
from streamq.runtime.wants import Wants
from streamq.trio_side import in_trio

MOST_CLAIMED: Final = 1_000
"""Tasks of one `claim_many`: all of them are held, and extended, by the caller."""


class Queue:
    """One queue of an app. Made by `app.queue(name)`; costs nothing."""

    def __init__(self, name: str, settings: BareSettings, door: Door) -> None:
        self.name = name
        self.settings = settings
        self._door = door
        self._draft: BareDraft | None = None

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"

    @property
    def limits(self) -> Limits | None:
        """The declared limits of this queue, as they are now; None when it has none."""
        return self._door.limits_of(self.name)

    def leases(self, given_s: float | None) -> tuple[float, Mapping[str, float]]:
        """Return the lease that a claim here is for, and those of handlers that have one of their own: none of them
        has when the caller has given one. Raises `OptionInvalid`."""
        if given_s is not None:
            return require_lease_s(given_s), {}
        return self.settings.lease_s, self._door.leases_of(self.name)

    def new(self, payload: Any, **options: Unpack[PutOptions]) -> NewTask:
        """Build a task without putting it. Raises `PayloadInvalid`, `PayloadTooLarge`, `OptionInvalid`."""
        if options:
            return task_of_payload(self.name, payload, options_of(options), self.settings, self._door.reply_to)
        if self._draft is None:
            self._draft = BareDraft(self.name, NO_OPTIONS, self.settings)
        return self._draft.task(payload, self._door.reply_to)

    @in_trio
    async def put(self, payload: Any, *, session: Any = None, **options: Unpack[PutOptions]) -> Handle[Any]:
        """Put one task with a payload of plain values; return once it is stored with majority.

        With `session` (of the app's own client, in a transaction) it is stored with the caller's own writes or not at
        all, and wakes consumers at the commit; the driver's own errors then come through, so that
        `session.with_transaction` can do its work. Errors and cancellation else: as `Handler.put`.
        """
        new = self.new(payload, **options)
        reply = await self._door.services().putter.put(new, session)
        return Handle(reply.id, self._door.services, _load, outcome=reply.outcome, keeps=new.keep_s != 0)

    @in_trio
    async def put_many(
        self, payloads: Iterable[Any], *, session: Any = None, **options: Unpack[PutOptions]
    ) -> Sequence[Handle[Any]]:
        """Put one task a payload, all with the same options; see `StreamQ.put_many` for what is held, `session` and
        errors."""
        many = self.many(payloads, session, **options)
        services = self._door.services()
        await services.putter.put_many(many, session)
        return Handles(many, self._door.services, _load)

    def many(self, payloads: Iterable[Any], session: Any, **options: Unpack[PutOptions]) -> PutMany:
        """Prepare a put of many, for a door of whatever kind."""
        chosen = options_of(options) if options else NO_OPTIONS
        return put_of_payloads(self.name, payloads, chosen, self.settings, self._door.reply_to, session)

    async def claim(self, *, wait_s: float = 0.0, lease_s: float | None = None) -> Task | None:
        """Claim the next task, of a handler or bare; None when there is none after `wait_s` seconds (`math.inf`: wait
        for ever). A waiting claim is woken by the stream, it does not poll.

            task = await app.queue("ticks").claim(wait_s=5)
            if task is not None:
                async with task:
                    handle_tick(task.payload)

        The lease (`lease_s`, by default its handler's own, else the app's) is extended in the background while the task
        is held: until it is settled or the app is left, which gives it back, uncounted. Should this process die, other
        workers notice the end of a lease that is shorter than their own after their own at the latest.

        Raises `StoreUnavailable` when the server cannot be asked; while waiting it is asked again. Trips: 2; 1 and a
        look for what is due when there is nothing; of a queue with limits more. Cancellation: safe, nothing is taken or
        it is returned.
        """
        tasks = await self.claim_many(1, wait_s=wait_s, lease_s=lease_s)
        return tasks[0] if tasks else None

    async def claim_many(self, n: int, *, wait_s: float = 0.0, lease_s: float | None = None) -> list[Task]:
        """Claim up to `n` tasks (1 to 1,000) by one call, in order; as `claim`.

        When there is none it waits at most `wait_s` seconds for the first, and returns it with those that came with it;
        it does not wait until there are `n`.
        """
        require_count(n, "n", most=MOST_CLAIMED)
        wait_s = require_wait_s(wait_s)
        return await picked(self._door.services(), self._wants(lease_s), self.settings, n, wait_s)

    async def pop(self, *, wait_s: float = 0.0) -> Task | None:
        """Claim the next task and settle it as succeeded at once: at most once, for what may be lost rather than done
        twice. The task is returned, with its `payload` and `info`, when its success is stored; None as by `claim`.

        Raises `OutcomeUnknown` when it is not known whether that is stored. Trips: 3. Cancellation: safe, nothing is
        taken or it is returned.
        """
        wait_s = require_wait_s(wait_s)
        return await popped(self._door.services(), self._wants(None), self.settings, wait_s)

    def consume(self, *, prefetch: int = 1, lease_s: float | None = None) -> AbstractAsyncContextManager[Tasks]:
        """Claim tasks for the body of the block, of handlers or bare:

            async with app.queue("ticks").consume(prefetch=64) as tasks:
                async for task in tasks:
                    async with task:
                        handle_tick(task.payload)

        Up to `prefetch` tasks wait in the process beyond those in hand, filled up when half of them are taken (0: claim
        only when asked; tasks with one attempt never wait). Leases are extended while tasks are held. On leaving the
        block what was not settled is released, uncounted. Entering returns once no later put can be missed.
        """
        require_count(prefetch, "prefetch", least=0)
        return consuming(self._door.services(), self._wants(lease_s, prefetch), self.settings)

    @in_trio
    async def pause(self) -> None:
        """Let no task of this queue begin, in any worker, until it is resumed. Those that run go on; what was claimed
        and had not begun goes back, uncounted. Workers hear through the stream, within milliseconds: one that is just
        being claimed may still begin. Tasks can be put, and become due. Idempotent. Trips: 2.
        """
        await self._switch(True)

    @in_trio
    async def resume(self) -> None:
        """Let tasks of this queue begin again. Idempotent. Trips: 2."""
        await self._switch(False)

    async def is_paused(self) -> bool:
        """Say whether this queue is paused. Trips: 1."""
        services = self._door.services()
        return bool(await services.bridge.call(services.store.paused, [self.name]))

    async def _switch(self, paused: bool) -> None:
        services = self._door.services()
        await services.bridge.call(services.store.pause, self.name, paused)

    def _wants(self, lease_s: float | None, prefetch: int = 0) -> Wants:
        own_s, leases = self.leases(lease_s)
        return Wants(
            queue=self.name,
            worker=self._door.services().worker,
            lease_s=own_s,
            limits=self.limits,
            spare=prefetch,
            leases=leases,
        )


def _load(document: TaskDocument) -> Any:
    return from_stored(document.get("result"))
