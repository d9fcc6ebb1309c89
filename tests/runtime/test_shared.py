"""Several queues that share slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing

from streamq import Handler, Shared, StreamQ, UsageError
from streamq.runtime.takers import Pool
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app

QUEUES = ("high", "low")


class Scene:
    """An app with a handler for each queue; each run takes a second."""

    def __init__(self, **options: Any) -> None:
        self.app = memory_app(safety_scan_s=None, **options)
        self.store = cast(MemoryStore, self.app.store)
        self.ran: list[str] = []
        self.most = 0
        self.handlers: dict[str, Handler[[], None, Any]] = {
            queue: self.app.task(queue=queue, name=queue)(self._note(queue)) for queue in QUEUES
        }

    def _note(self, queue: str) -> Any:
        async def note() -> None:
            self.ran.append(queue)
            self.most = max(self.most, sum(one["status"] == "running" for one in self.store.documents.values()))
            await trio.sleep(1)

        return note

    async def put(self, queue: str, count: int, max_attempts: int = 5) -> None:
        new = self.handlers[queue].options(max_attempts=max_attempts)
        await self.app.put_many([new.new() for _ in range(count)])

    @asynccontextmanager
    async def working(self, shared: Shared) -> AsyncIterator[None]:
        async with self.app, trio.open_nursery() as nursery:
            await self.put("low", 40)
            await self.put("high", 40)
            await nursery.start(self.app.work, shared)
            yield
            nursery.cancel_scope.cancel()

    async def seen(self, count: int) -> list[str]:
        while len(self.ran) < count:  # noqa: ASYNC110 - virtual time
            await trio.sleep(0.1)
        return self.ran[:count]


@pytest.mark.parametrize("slots", [1, 3, 16])
async def test_slots_are_shared_by_weight_and_nobody_starves(slots: int) -> None:
    scene = Scene()
    async with scene.working(Shared.by_weight({"high": 3, "low": 1}, slots=slots)):
        ran = Counter(await scene.seen(48))
    assert abs(ran["high"] - 36) <= 4  # in batches of what is free


@pytest.mark.parametrize("slots", [1, 3, 16])
async def test_in_order_the_first_queue_is_drained_before_the_next(slots: int) -> None:
    scene = Scene()
    async with scene.working(Shared.in_order(["high", "low"], slots=slots)):
        assert await scene.seen(60) == ["high"] * 40 + ["low"] * 20


async def test_in_order_what_comes_to_the_first_queue_is_next() -> None:
    scene = Scene()
    async with scene.working(Shared.in_order(["high", "low"], slots=2)):
        await scene.seen(50)
        before = len(scene.ran)
        await scene.put("high", 4)
        await scene.seen(before + 6)
    assert scene.ran[before : before + 4] == ["high"] * 4


@pytest.mark.parametrize(
    "shared", [Shared.by_weight(dict.fromkeys(QUEUES, 1), slots=3), Shared.in_order(QUEUES, slots=3)]
)
async def test_no_more_is_claimed_than_there_are_slots(shared: Shared) -> None:
    scene = Scene()
    async with scene.working(shared):
        await scene.put("high", 5, max_attempts=1)
        await scene.seen(85)
    assert scene.most == 3
    assert all(one["attempt"] == 1 for one in scene.store.documents.values() if one["status"] == "succeeded")


async def test_the_wake_of_every_queue_is_heard_by_an_idle_pool() -> None:
    scene = Scene()
    async with scene.working(Shared.by_weight({"high": 2, "low": 1}, slots=4)):
        await scene.seen(80)
        await trio.sleep(10)
        began_at = trio.current_time()
        for queue in ("low", "high", "low"):
            scene.store.put([scene.handlers[queue].new()])  # by another process: the stream alone tells it
        await scene.seen(83)
        assert trio.current_time() - began_at <= 0.2


async def test_a_pool_gives_back_everything_when_it_is_stopped() -> None:
    scene = Scene()
    async with scene.working(Shared.by_weight({"high": 2, "low": 1}, slots=7)):
        await scene.seen(7)
    assert scene.store.counts() == {"high": {"ready": 40}, "low": {"ready": 40}}


async def test_a_pool_needs_a_handler_for_each_of_its_queues() -> None:
    app = StreamQ.on(MemoryStore(lambda: None), None)  # type: ignore[arg-type,return-value]
    with pytest.raises(UsageError, match="'absent' has no handler"):
        await app.work(Shared.in_order(["absent"], slots=1))


class Wanting:
    """An intake of a queue that always has something to claim."""

    is_wanting = True

    def look(self) -> None:
        return

    def watch(self) -> None:
        return


@pytest.mark.parametrize(
    ("how", "obtained", "next_is"),
    [("claim", 1, "low"), ("claim", 0, "high"), ("early", 1, "low"), ("early", 0, "high")],
)
async def test_a_turn_is_used_by_what_was_obtained_and_not_by_what_was_asked_for(
    how: str, obtained: int, next_is: str
) -> None:
    pool = Pool(lambda held: None, Shared.by_weight({"high": 1, "low": 1}, slots=1))
    sources = {queue: Wanting() for queue in QUEUES}
    for source in sources.values():
        pool.serve(source)
    high = sources["high"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.take)
        await trio.testing.wait_all_tasks_blocked()
        assert {queue: pool.free(source) for queue, source in sources.items()} == {"high": 1, "low": 0}
        if how == "claim":
            pool.asking(high, 1)
            pool.asked(high, 1, obtained)
        else:
            pool.offer.give(1)
            assert pool.offer.take()
            pool.back(high, obtained)
        assert {queue for queue, source in sources.items() if pool.free(source) == 1} == {next_is}
        nursery.cancel_scope.cancel()
