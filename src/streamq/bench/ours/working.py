"""Consumers of streamq: a worker with the bench's handler."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import msgspec
import trio

from streamq import StreamQ
from streamq.bench.actor import TELL_S, Stage
from streamq.bench.ours.stamped import StampedStore, stamped
from streamq.bench.place import HANDLER, QUEUE, Place
from streamq.bench.worked import Worked

PREFETCH = 64
OWN_THREADS = 1  # the one by which an actor hears of its parent


class Work(msgspec.Struct, frozen=True):
    """What a worker is to do: `count` tasks (None: until it is stopped) in so many slots. `each` asks for the instants
    of every task; `wall` for those of the handlers by the wall clock. It says how many it has run, or, if it
    `tells_released`, how many delayed ones have left that state. `by` is how it consumes: "work" by a worker's
    slots, "loop" by trio tasks that share one `consume`, "own" by trio tasks with a `consume` each. `queues` are worked
    on besides."""

    count: int | None = None
    slots: int = 16
    handler_s: float = 0.0
    each: bool = False
    wall: bool = False
    go: bool = False
    by: str = "work"
    lease_s: float | None = None
    queues: tuple[str, ...] = ()
    tells_released: bool = False


class Hand:
    """The handler, and what it notes."""

    def __init__(self, asked: Work) -> None:
        self.done = 0
        self.begun: list[tuple[int, int]] = []
        self.enough = trio.Event()
        self._asked = asked
        self._now: Callable[[], int] = time.time_ns if asked.wall else time.monotonic_ns
        self._notes = asked.each or asked.wall
        self._count = math.inf if asked.count is None else asked.count

    def declare(self, app: StreamQ, queue: str, name: str) -> None:
        """Make it the handler of a queue."""
        app.task(queue=queue, name=name, keep_s=0)(self._slow if self._asked.handler_s else self._quick)

    async def _quick(self, number: int) -> None:
        self.note(number)

    async def _slow(self, number: int) -> None:
        if self._notes:
            self.begun.append((number, self._now()))
        await trio.sleep(self._asked.handler_s)
        self._end()

    def note(self, number: int) -> None:
        """Note one task that is through as it begins."""
        if self._notes:
            self.begun.append((number, self._now()))
        self._end()

    def _end(self) -> None:
        self.done += 1
        if self.done >= self._count:
            self.enough.set()


def work(stage: Stage, place: Place, asked: Work) -> Worked:
    """Work; see `Work`."""
    return trio.run(_work, stage, place, asked)


async def _work(stage: Stage, place: Place, asked: Work) -> Worked:
    options = {} if asked.lease_s is None else {"lease_s": asked.lease_s}
    app, store = stamped(place, each=asked.each, **options)
    hand = Hand(asked)
    hand.declare(app, QUEUE, HANDLER)
    for queue in asked.queues:
        hand.declare(app, queue, queue)
    with stage.stopping(hand.enough.set):
        async with app:
            if asked.go:
                stage.ready()
                await stage.gone()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tell, stage, hand, store, asked)
                await nursery.start(CONSUMERS[asked.by], app, hand, asked)
                if not asked.go:
                    stage.ready()
                with trio.move_on_after(max(0.0, stage.until - time.monotonic())):
                    await hand.enough.wait()
                nursery.cancel_scope.cancel()
            # Leaving the app waits until every settlement is known.
    stage.tell(_done(hand, store, asked))
    store.close()
    store.worked.rows = store.rows(hand.begun)
    return store.worked


async def _tell(stage: Stage, hand: Hand, store: StampedStore, asked: Work) -> None:
    while True:
        stage.tell(_done(hand, store, asked))
        store.worked.most_threads = max(store.worked.most_threads, threading.active_count() - OWN_THREADS)
        await trio.sleep(TELL_S)


def _done(hand: Hand, store: StampedStore, asked: Work) -> int:
    return sum(count for _, count in store.worked.released) if asked.tells_released else hand.done


async def _by_slots(
    app: StreamQ, hand: Hand, asked: Work, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    slots = dict.fromkeys((QUEUE, *asked.queues), asked.slots)
    await app.work(slots, task_status=task_status)


async def _by_loop(
    app: StreamQ, hand: Hand, asked: Work, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async with app.queue(QUEUE).consume(prefetch=PREFETCH) as tasks, trio.open_nursery() as nursery:
        task_status.started()

        async def consume() -> None:
            async for task in tasks:
                async with task:
                    hand.note(task.payload["number"])

        for _ in range(asked.slots):
            nursery.start_soon(consume)


async def _by_own_loops(
    app: StreamQ, hand: Hand, asked: Work, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async def consume(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with app.queue(QUEUE).consume() as tasks:
            task_status.started()
            async for task in tasks:
                async with task:
                    hand.note(task.payload["number"])

    async with trio.open_nursery() as nursery:
        for _ in range(asked.slots):
            await nursery.start(consume)
        task_status.started()


CONSUMERS = {"work": _by_slots, "loop": _by_loop, "own": _by_own_loops}
