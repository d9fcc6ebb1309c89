"""The lease that a handler was declared with, in the hands of who claims its tasks without a worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio

from streamq import Handler, StreamQ
from streamq.queue import Queue
from streamq.runtime.consumer import Task
from streamq.testing import memory_app
from tests.runtime.test_leases import memory


@pytest.fixture
def app() -> StreamQ:
    return memory_app(lease_s=30)


@pytest.fixture
def slow(app: StreamQ) -> Handler[[], None, None]:
    @app.task(queue="q", lease_s=90)
    def slow() -> None: ...

    @app.task(queue="elsewhere", lease_s=7, name="x")
    def other() -> None: ...

    return slow


def leases(app: StreamQ) -> dict[str | None, float]:
    """What is left of each lease, by the name of the handler."""
    return {
        one["task"]: round((one["lease_until"] - one["started_at"]).total_seconds())
        for one in memory(app).documents.values()
        if one["status"] == "running"
    }


Take = Callable[[Queue, float | None], Awaitable[Sequence[Task]]]


async def claim(queue: Queue, lease_s: float | None) -> Sequence[Task]:
    return await queue.claim_many(2, lease_s=lease_s)


async def wait(queue: Queue, lease_s: float | None) -> Sequence[Task]:
    """Claims that have been waiting when the tasks are put."""
    tasks: list[Task | None] = []

    async def wait_for_one() -> None:
        tasks.append(await queue.claim(wait_s=50, lease_s=lease_s))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_one)
        nursery.start_soon(wait_for_one)
    return [one for one in tasks if one is not None]


@pytest.mark.parametrize(("take", "put_at_s"), [(claim, 0), (wait, 5)], ids=["at once", "waiting"])
@pytest.mark.parametrize(
    ("given", "expected"), [(None, {"slow": 90, None: 30}), (10, {"slow": 10, None: 10})], ids=["own", "given"]
)
async def test_claimed_task_has_the_lease_of_its_handler_unless_the_caller_gives_one(
    app: StreamQ,
    slow: Handler[[], None, None],
    take: Take,
    put_at_s: float,
    given: float | None,
    expected: dict[str | None, float],
) -> None:
    async with app, trio.open_nursery() as nursery:

        async def put() -> None:
            await trio.sleep(put_at_s)
            await app.put_many([slow.new(), app.queue("q").new("bare")])

        nursery.start_soon(put)
        await trio.sleep(1)
        assert len(await take(app.queue("q"), given)) == 2
        assert leases(app) == expected


async def test_consumed_task_has_the_lease_of_its_handler_and_keeps_it_when_it_is_extended(
    app: StreamQ, slow: Handler[[], None, None]
) -> None:
    async with app, app.queue("q").consume() as tasks:
        await slow.put()
        async for task in tasks:
            assert leases(app) == {"slow": 90}
            await trio.sleep(45)
            await task.extend()
            assert leases(app) == {"slow": 135}
            break


async def test_claims_that_wait_with_a_lease_of_their_own_stand_in_no_line_with_others(
    app: StreamQ, slow: Handler[[], None, None]
) -> None:
    """The app's lease, given by the caller, is none that a handler's may stand in for."""
    async with app, trio.open_nursery() as nursery:
        lengths: list[float] = []

        async def wait_with(lease_s: float | None) -> None:
            task = await app.queue("q").claim(wait_s=50, lease_s=lease_s)
            assert task is not None
            lengths.append(task._held.claim.lease_s)

        nursery.start_soon(wait_with, None)
        nursery.start_soon(wait_with, 30)
        await trio.sleep(1)
        await app.put_many([slow.new(), slow.new()])
    assert sorted(lengths) == [30, 90]
