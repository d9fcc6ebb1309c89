"""Who may make which call: each public call of the three doors and each command, with the roles that may make it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import trio

from streamq import (
    Blocking,
    BlockingDesk,
    BlockingHandler,
    BlockingQueue,
    BlockingTask,
    Desk,
    Handle,
    Handler,
    Queue,
    StreamQ,
    Task,
)
from streamq.asyncio import AsyncQueue, AsyncTask, Door
from streamq.core.roles import KINDS, RoleKind
from streamq.runtime.sole import sole_error
from tests.integration.role_scene import Given, Scene

Classes = tuple[type, ...]


Roles = frozenset[RoleKind]

ANY: Final[Roles] = frozenset(KINDS)
"""Asks what it may, and says what it could not ask."""

PUT: Final[Roles] = ANY - {"reader"}
READ: Final[Roles] = ANY - {"producer"}
WRITE: Final[Roles] = frozenset({"client", "worker", "operator"})
"""Who may change a task: MongoDB cannot tell a claim, a settlement, a pause or a requeue from what a client writes."""

STREAM: Final[Roles] = frozenset({"client", "worker"})
"""Who may be woken: waits for results with trio, works."""

REMOVE: Final[Roles] = frozenset({"worker", "operator"})
OPERATE: Final[Roles] = frozenset({"operator"})


class Call(NamedTuple):
    """A method of these classes, who may call it, a call of it on an object of such a class, and the task before it."""

    classes: Classes
    name: str
    may: Roles
    do: Callable[[Any, Scene], Any]
    given: Given = "ready"

    @property
    def looks(self) -> bool:
        """Whether it returns what is there, and changes nothing."""
        return self.may in (READ, ANY) or self.name in ("result", "wait")


class Command(NamedTuple):
    """A command, who may run it, its arguments, and the task before it."""

    name: str
    may: Roles
    arguments: Callable[[Scene], tuple[str, ...]]
    given: Given = "ready"


APPS: Final[Classes] = (StreamQ, Blocking, Door)
QUEUES: Final[Classes] = (Queue, BlockingQueue, AsyncQueue)
TASKS: Final[Classes] = (Task, BlockingTask, AsyncTask)
DESKS: Final[Classes] = (Desk, BlockingDesk)
BY_ID: Final[Classes] = (Handle, Blocking, Door)
"""What is asked of one task: of its handle with trio, else by its id."""

DOORS: Final[dict[str, Classes]] = {
    "trio": (StreamQ, Queue, Handler, Handle, Task, Desk),
    "blocking": (Blocking, BlockingQueue, BlockingHandler, BlockingTask, BlockingDesk),
    "asyncio": (Door, AsyncQueue, AsyncTask),
}

NO_SERVER: Final = frozenset(
    {
        *("StreamQ.embedded", "StreamQ.on", "StreamQ.task", "StreamQ.limit", "StreamQ.limits_of", "StreamQ.leases_of"),
        *("StreamQ.queue", "StreamQ.point_at", "StreamQ.role", "StreamQ.close", "StreamQ.services", "StreamQ.handle"),
        *("Queue.leases", "Queue.new", "Queue.many", "Handler.new", "Handler.options", "BlockingHandler.options"),
        *("BlockingHandler.new", "BlockingTask.require_held", "BlockingTask.success", "BlockingTask.ended"),
        *("Blocking.result_of", "Blocking.uses", "BlockingQueue.claimer", "Door.queue"),
    }
)
"""Asks no server, or hands on what does."""

OF_OTHERS: Final = frozenset(
    {
        *("Blocking.put_all", "Blocking.wait_until", "Blocking.queue", "Blocking.handler", "Blocking.store"),
        *("BlockingTask.popped", "BlockingTask.give_back", "AsyncTask.popped", "AsyncTask.give_back"),
    }
)
"""Part of another call that is in the table."""


def of(door: Any, scene: Scene) -> Any:
    """Return what a door has of the scene's task."""
    return door.handle(scene.id) if isinstance(door, StreamQ) else ById(door, scene.id)


class ById:
    def __init__(self, door: Any, id: Any) -> None:
        self._door, self._id = door, id

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(getattr(self._door, name), self._id)


async def work(app: StreamQ, scene: Scene) -> None:
    door = scene.full.blocking
    with trio.fail_after(20), sole_error():
        async with trio.open_nursery() as nursery:
            await nursery.start(app.work, "q")
            id = await trio.to_thread.run_sync(lambda: door.put(scene.add.new(1, b=2)).id)
            assert await trio.to_thread.run_sync(lambda: door.result(id, 10)) == 3
            nursery.cancel_scope.cancel()


async def consume(queue: Queue, _: Scene) -> None:
    with trio.fail_after(20), sole_error():
        async with queue.consume() as tasks:
            async for task in tasks:
                async with task:
                    return


async def consume_by_asyncio(queue: AsyncQueue, _: Scene) -> None:
    async for task in queue.consume(wait_s=0):
        await task.succeed()
        return


def consume_by_hand(queue: BlockingQueue, _: Scene) -> None:
    for task in queue.consume(wait_s=0):
        task.succeed()
        return


CALLS: Final = (
    # --- putting
    Call(QUEUES, "put", PUT, lambda queue, _: queue.put({"x": 1}, group="g", delay_s=1, tag="t")),
    Call(QUEUES, "put_many", PUT, lambda queue, _: queue.put_many(range(3))),
    Call((Handler,), "put", PUT, lambda _, scene: scene.add.put(1, b=2)),
    Call((BlockingHandler,), "put", PUT, lambda app, scene: app.handler(scene.add).put(1, b=2)),
    Call((Blocking, Door), "put", PUT, lambda app, scene: app.put(scene.add.new(1, b=2))),
    Call(APPS, "put_many", PUT, lambda app, scene: app.put_many([scene.add.new(1, b=2)])),
    Call((Handler,), "run_now", PUT, lambda _, scene: scene.tick.run_now()),
    Call((Blocking, Door), "run_now", PUT, lambda app, scene: app.run_now(scene.tick)),
    # --- options of a put that read or change what was put before
    Call(QUEUES, "put after=", WRITE, lambda queue, scene: queue.put(1, after=[scene.id])),
    Call(QUEUES, "put replace", WRITE, lambda queue, _: queue.put(2, unique="k", on_conflict="replace"), "keyed"),
    Call(QUEUES, "put unique_for_s=", WRITE, lambda queue, _: queue.put(1, unique="u", unique_for_s=60)),
    # --- learning what became of tasks
    Call((Handle,), "result", STREAM, lambda app, scene: of(app, scene).result(timeout_s=5), "ended"),
    Call((Handle,), "wait", STREAM, lambda app, scene: of(app, scene).wait(timeout_s=5), "ended"),
    Call((Blocking, Door), "result", READ, lambda app, scene: of(app, scene).result(timeout_s=5), "ended"),
    Call((Blocking, Door), "wait", READ, lambda app, scene: of(app, scene).wait(timeout_s=5), "ended"),
    Call(BY_ID, "status", READ, lambda app, scene: of(app, scene).status()),
    Call(BY_ID, "progress", READ, lambda app, scene: of(app, scene).progress(), "reported"),
    Call((Handle,), "cancel", WRITE, lambda app, scene: of(app, scene).cancel()),
    Call(APPS, "cancel", WRITE, lambda app, scene: app.cancel([scene.id])),
    # --- running tasks
    Call((StreamQ,), "work", STREAM, work),
    Call(QUEUES, "claim", WRITE, lambda queue, _: queue.claim()),
    Call(QUEUES, "claim_many", WRITE, lambda queue, _: queue.claim_many(2)),
    Call(QUEUES, "pop", WRITE, lambda queue, _: queue.pop()),
    Call((Queue,), "consume", STREAM, consume),
    Call((AsyncQueue,), "consume", WRITE, consume_by_asyncio),
    Call((BlockingQueue,), "consume", WRITE, consume_by_hand),
    Call(TASKS, "succeed", WRITE, lambda task, _: task.succeed(1)),
    Call(TASKS, "fail", WRITE, lambda task, _: task.fail(ValueError("no"), retry=False)),
    Call(TASKS, "release", WRITE, lambda task, _: task.release(1)),
    Call(TASKS, "snooze", WRITE, lambda task, _: task.snooze(1)),
    Call(TASKS, "cancel", WRITE, lambda task, _: task.cancel("why")),
    Call(TASKS, "progress", WRITE, lambda task, _: task.progress(0.5, "half")),
    Call(TASKS, "extend", WRITE, lambda task, _: task.extend()),
    Call((BlockingTask, AsyncTask), "cancel_asked", READ, lambda task, _: task.cancel_asked(), "asked"),
    Call(TASKS, "transaction", WRITE, lambda task, _: task.transaction()),
    Call(TASKS, "run_in_transaction", WRITE, lambda task, _: task.run_in_transaction(lambda session: 1)),
    # --- looking
    Call((StreamQ, Blocking), "counts", READ, lambda app, _: app.counts()),
    Call((StreamQ, Blocking), "find", READ, lambda app, _: app.find(queue="q")),
    Call((StreamQ, Blocking), "unclaimed", READ, lambda app, _: app.unclaimed()),
    Call((StreamQ, Blocking), "schedules", READ, lambda app, _: app.schedules()),
    Call(QUEUES, "is_paused", READ, lambda queue, _: queue.is_paused(), "paused"),
    Call(DESKS, "find", READ, lambda desk, _: desk.find(tag="t")),
    Call(DESKS, "show", READ, lambda desk, scene: desk.show(scene.id)),
    Call(DESKS, "peek", READ, lambda desk, _: desk.peek("q")),
    Call(DESKS, "counts", READ, lambda desk, _: desk.counts()),
    Call(DESKS, "counts_by_handler", READ, lambda desk, _: desk.counts_by_handler()),
    Call(DESKS, "each", READ, lambda desk, _: desk.each(queue="q")),
    Call(DESKS, "export", READ, lambda desk, _: desk.export(queue="q")),
    Call(DESKS, "workers", READ, lambda desk, _: desk.workers(), "reported"),
    Call(DESKS, "check", ANY, lambda desk, _: desk.check()),
    # --- putting right
    Call(QUEUES, "pause", WRITE, lambda queue, _: queue.pause()),
    Call(QUEUES, "resume", WRITE, lambda queue, _: queue.resume(), "paused"),
    Call((StreamQ, Blocking), "disable_schedule", WRITE, lambda app, _: app.disable_schedule("tick")),
    Call((StreamQ, Blocking), "enable_schedule", WRITE, lambda app, _: app.enable_schedule("tick"), "disabled"),
    Call(DESKS, "requeue", WRITE, lambda desk, scene: desk.requeue(scene.id), "ended"),
    Call(DESKS, "requeue_found", WRITE, lambda desk, _: desk.requeue_found(queue="q"), "ended"),
    Call(DESKS, "cancel_found", WRITE, lambda desk, _: desk.cancel_found(queue="q")),
    Call(DESKS, "free_key", OPERATE, lambda desk, _: desk.free_key("q", "k")),
    Call(DESKS, "delete", REMOVE, lambda desk, scene: desk.delete(scene.id)),
    Call(DESKS, "purge", REMOVE, lambda desk, _: desk.purge(older_than_s=0, queue="q"), "ended"),
    Call(DESKS, "check repair=", ANY, lambda desk, _: desk.check(repair=True)),
)


COMMANDS: Final = (
    Command("put", PUT, lambda _: ("q", "1")),
    Command("counts", READ, lambda _: ()),
    Command("tasks", READ, lambda _: ()),
    Command("peek", READ, lambda _: ("q",)),
    Command("show", READ, lambda scene: (str(scene.id),)),
    Command("export", READ, lambda _: ()),
    Command("workers", READ, lambda _: (), "reported"),
    Command("schedules", READ, lambda _: ()),
    Command("schedules", WRITE, lambda _: ("--disable", "tick")),
    Command("schedules", WRITE, lambda _: ("--enable", "tick"), "disabled"),
    Command("cancel", WRITE, lambda scene: (str(scene.id),)),
    Command("requeue", WRITE, lambda scene: (str(scene.id),), "ended"),
    Command("delete", REMOVE, lambda scene: (str(scene.id),)),
    Command("purge", REMOVE, lambda _: ("--older-than", "0"), "ended"),
    Command("pause", WRITE, lambda _: ("q",)),
    Command("resume", WRITE, lambda _: ("q",), "paused"),
    Command("init", OPERATE, lambda _: (), "without an index"),
)

OTHER_COMMANDS: Final = frozenset({"worker", "dev", "check"})
"""`worker` is `StreamQ.work`, `check` is `Desk.check`: its exit code says what was found. `dev` runs a server."""


def public_calls() -> set[str]:
    """Return every public method of the doors' classes, as `Class.method`."""
    return {
        f"{one.__name__}.{name}"
        for classes in DOORS.values()
        for one in classes
        for name, value in vars(one).items()
        if not name.startswith("_") and (inspect.isroutine(value) or isinstance(value, classmethod | staticmethod))
    }
