"""What the processes of a run do: handlers that the plan has written, and puts at their times."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import msgspec
import trio

from streamq import (
    ClaimError,
    Handler,
    OutcomeUnknown,
    Retry,
    StoreError,
    StreamQ,
    UsageError,
    current_task,
    progress,
)
from streamq.core.handling import Handling
from streamq.store.contract import Store
from tests.chaos import event
from tests.simulation.bridge import LaggingBridge
from tests.simulation.plan import Cancel, Host, Pause, Plan, Put, Recur
from tests.simulation.process import Process
from tests.simulation.server import Server

RETRY: Final = Retry(max_attempts=3, first_s=0.2, cap_s=0.5)
AGAIN_S: Final = 0.25
UNREADY: Final = 0.3
BARE_WAIT_S: Final = 20.0
"""Longer than until calm comes: who waits so long is to be woken."""

TICK: Final = Put(-1)
"""What is run for a slot."""

Report = Callable[[float], Awaitable[None]]


Handlers = dict[tuple[str, bool], Any]
"""By queue, and whether their time is limited."""


@functools.cache
def _handling(queue: str, timed: bool) -> Handling:
    async def job(mark: str) -> str:
        return mark

    name = f"{'timed' if timed else 'job'}-{queue}"
    declared = StreamQ("mongodb://unused", retry=RETRY).task(queue=queue, name=name, timeout_s=0.5 if timed else None)
    return declared(job).handling


@functools.cache
def _ticking(recur: Recur) -> Handling:
    async def tick() -> str:
        return ""

    declared = StreamQ("mongodb://unused", retry=RETRY).task(
        queue=recur.queue, name=recur.name, every_s=recur.every_s, missed=recur.missed, overlap=recur.overlap
    )
    return declared(tick).handling


class AsPlanned(Exception):
    """A handler fails."""


class Script:
    """That of one process; `host` is None for a producer."""

    def __init__(self, plan: Plan, server: Server, process: Process, host: Host | None) -> None:
        self._plan = plan
        self._server = server
        self._process = process
        self._host = host
        self._puts = {str(one.id(plan.schedule)): one for one in plan.puts}
        self.running = 0  # handlers
        self.serves = False
        self.undone = 0  # of what it has to do at a time: puts, cancels, pauses
        self.has_begun = self._host is not None  # all that is not a host's own is the producer's
        self.stop: trio.Event | None = None

    # --- for all -------------------------------------------------------------------------------------------------

    def _app(self) -> tuple[StreamQ, Handlers]:
        swift = self._host is not None and self._host.swift
        app = StreamQ.on(
            cast(Store, self._process.wire),
            LaggingBridge(self._process, swift=swift),
            lease_s=self._plan.lease_s,
            safety_scan_s=self._plan.safety_scan_s,
            retry=RETRY,
            worker_id=self._process.name,
        )
        handlers: Handlers = {}
        for queue in self._queues():
            for timed in (False, True):
                handling = msgspec.structs.replace(_handling(queue, timed), function=self._job)
                app._handlers[handling.name] = handling  # what `app.task` would do, without reading signatures anew
                handlers[queue, timed] = Handler(self._job, handling, app)
        for limit in self._plan.limits:
            app.limit(limit.queue, rate=limit.rate, running=limit.running, key_running=limit.key_running)
        if self._host is not None:
            for recur in self._plan.recurs:
                app._handlers[recur.name] = msgspec.structs.replace(_ticking(recur), function=self._tick)
        return app, handlers

    def _queues(self) -> list[str]:
        served = () if self._host is None else self._host.queues
        return sorted({*served, *(put.queue for put in self._plan.puts)})

    async def _until_entered(self, inside: Callable[[StreamQ, Handlers], Awaitable[None]]) -> None:
        """Enter the app, again and again, as under a supervisor."""
        while True:
            app, handlers = self._app()
            try:
                async with app:
                    await inside(app, handlers)
                    return
            except StoreError:
                await trio.sleep(UNREADY)

    # --- working -------------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Run handlers, and put what this host puts."""
        assert self._host is not None
        host = self._host

        async def serve(app: StreamQ, handlers: Handlers) -> None:
            stop = self.stop = trio.Event()
            async with trio.open_nursery() as nursery:
                if host.bare:
                    for queue in sorted([*host.queues] * host.slots):
                        nursery.start_soon(self._claim_on, app, queue, stop)
                else:
                    await nursery.start(
                        lambda task_status: app.work(
                            dict.fromkeys(host.queues, host.slots), stop=stop, task_status=task_status
                        )
                    )
                self.serves = True
                self._start_puts(nursery, app, handlers, host.name)
            self.serves = False

        try:
            await self._until_entered(serve)
        finally:
            self.serves = False

    @property
    def has_room(self) -> bool:
        """Say whether a slot is free, of a process that could use it: one that stops takes nothing more."""
        if self._host is None or self._process.frozen or (self.stop is not None and self.stop.is_set()):
            return False
        return self.serves and self.running < self._host.slots

    def fires(self, queue: str) -> bool:
        """Say whether the slots of recurring handlers of a queue are fired here."""
        host = self._host
        there = self.serves and not self._process.frozen and self._process.is_alive
        return there and host is not None and not host.bare and queue in host.queues

    async def _job(self, mark: str) -> str:
        task = current_task()
        await self._run(self._puts[mark], mark, task.claim_id, task.attempt, progress)
        return mark

    async def _tick(self) -> str:
        task = current_task()
        await self._run(TICK, str(task.id), task.claim_id, task.attempt, progress)
        return ""

    async def _claim_on(self, app: StreamQ, queue: str, stop: trio.Event) -> None:
        """Claim one task after the other, without handlers."""
        while not stop.is_set():
            try:
                task = await app.queue(queue).claim(wait_s=BARE_WAIT_S)
                if task is not None:
                    async with task:
                        claim, mark = task._claim, str(task.info.id)
                        put = self._puts.get(mark, TICK)
                        await self._run(put, mark, claim.claim_id, claim.attempt, task.progress)
            except (StoreError, ClaimError):
                await trio.sleep(AGAIN_S)

    async def _run(self, put: Put, mark: str, claim_id: bytes, attempt: int, report: Report) -> None:
        world, claim, how = self._process.world, claim_id.hex(), "cancelled"
        once = put.max_attempts == 1
        self._note(event.Began(at=world.now, id=mark, claim=claim, attempt=attempt, once=once))
        self.running += 1
        try:
            if put.reports:
                await report(0.5)
            await trio.sleep(put.run_s)
            if attempt <= put.fails:
                how = "raised"
                raise AsPlanned(mark)
            how = "done"
        finally:
            if put.stubborn_s and how == "cancelled":
                with trio.CancelScope(shield=True):
                    await trio.sleep(put.stubborn_s)
            self.running -= 1
            self._note(event.Ended(at=world.now, id=mark, claim=claim, how=how))

    def _note(self, what: event.AnyEvent) -> None:
        if self._process.is_alive:
            self._server.log.append(what)

    # --- putting -------------------------------------------------------------------------------------------------

    async def produce(self) -> None:
        """Put what no host puts, and cancel and pause."""

        async def script(app: StreamQ, handlers: Handlers) -> None:
            async with trio.open_nursery() as nursery:
                self._start_puts(nursery, app, handlers, self._process.name)
                for act in self._plan.acts:
                    self._start(nursery, self._act, app, act)
                for recur in self._plan.recurs:
                    self._start(nursery, self._disable, app, recur)
                self.has_begun = True

        await self._until_entered(script)

    def _start_puts(self, nursery: trio.Nursery, app: StreamQ, handlers: Handlers, by: str) -> None:
        for put in self._plan.puts:
            if put.by == by and not self._is_known(put):
                self._start(nursery, self._put, handlers, put)

    def _is_known(self, put: Put) -> bool:
        # Of a process that stands in another's place: it puts what that had not begun to.
        return self._host is not None and put.at < self._process.world.now - 0.001

    def _start(self, nursery: trio.Nursery, what: Callable[..., Awaitable[None]], *args: Any) -> None:
        self.undone += 1

        async def run() -> None:
            try:
                await what(*args)
            finally:
                self.undone -= 1

        nursery.start_soon(run)

    async def _sleep_until(self, at: float) -> None:
        await trio.sleep(max(0.0, at - self._process.world.now))

    async def _put(self, handlers: Handlers, put: Put) -> None:
        await self._sleep_until(put.at)
        id, world = put.id(self._plan.schedule), self._process.world
        before = self._plan.put_of(put.after)
        options: dict[str, Any] = {"id": id, "max_attempts": put.max_attempts, "priority": put.priority}
        if put.delay_s:
            options["delay_s"] = put.delay_s
        if put.group is not None:
            options["group"] = put.group
        if put.rate_key is not None:
            options["rate_key"] = put.rate_key
        if put.unique is not None:
            options["unique"] = put.unique
        if put.deletes:
            options["keep_s"] = 0
        if before is not None:
            options |= {"after": [before.id(self._plan.schedule)], "missing_parent": "satisfied"}
        handler = handlers[put.queue, put.timed]
        ids = [str(id)]
        while True:
            self._note(event.Tried(at=world.now, ids=ids))
            try:
                handle = await handler.options(**options).put(str(id))
            except OutcomeUnknown as error:
                self._note(event.Unknown(at=world.now, ids=ids, why=str(error)))
            except StoreError as error:
                self._note(event.Refused(at=world.now, ids=ids, why=str(error)))
            else:
                if handle.id == id:
                    self._note(event.Acked(at=world.now, ids=ids))
                else:
                    self._note(event.Refused(at=world.now, ids=ids, why="its key is taken"))
                return
            if not put.again or put.deletes:
                return
            await trio.sleep(AGAIN_S)

    async def _act(self, app: StreamQ, act: Cancel | Pause) -> None:
        await self._sleep_until(act.at)
        if isinstance(act, Cancel):
            put = self._plan.put_of(act.key)
            if put is not None:
                await self._insist(lambda: app.cancel(put.id(self._plan.schedule)))
            return
        queue = app.queue(act.queue)
        await self._insist(queue.pause)
        await trio.sleep(act.for_s)
        await self._insist(queue.resume)

    async def _disable(self, app: StreamQ, recur: Recur) -> None:
        await self._sleep_until(recur.until)
        while True:
            try:
                await self._insist(lambda: app.disable_schedule(recur.name))
            except UsageError:  # no host has declared it yet
                await trio.sleep(AGAIN_S)
            else:
                return

    async def _insist(self, call: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await call()
            except StoreError:
                await trio.sleep(AGAIN_S)
            else:
                return
