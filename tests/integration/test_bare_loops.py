"""Bare claims and loops in trio on the real server: however they are left, nothing hangs and nothing is lost."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio

from streamq import LeaseLost, Retry, Shared, StreamQ, Task
from tests.integration.conftest import MakeApp

Act = Callable[[Task], Awaitable[object]]


def statuses(app: StreamQ) -> dict[str, int]:
    return dict(app.store.counts().get("q", {}))


def attempts(app: StreamQ, database: str) -> list[int]:
    return [one["attempt"] for one in app.client[database].tasks.find({"queue": "q"}).sort("seq", 1)]


@pytest.mark.parametrize("leave", ["break", "error", "cancel"])
@pytest.mark.parametrize("prefetch", [0, 3])
async def test_loop_that_is_left_gives_back_all_that_was_not_settled(
    make_app: MakeApp, database: str, leave: str, prefetch: int
) -> None:
    app = make_app()

    async def loop() -> None:
        async with app.queue("q").consume(prefetch=prefetch) as tasks:
            async for task in tasks:
                if task.payload == 0:
                    async with task:
                        continue
                # In hand, and more than half of what may wait besides.
                while statuses(app).get("running", 0) < 1 + (prefetch + 1) // 2:  # noqa: ASYNC110 - what the server has
                    await trio.sleep(0.01)
                if leave == "error":
                    raise ZeroDivisionError
                if leave == "cancel":
                    scope.cancel()
                    await trio.sleep_forever()
                break

    async with app:
        await app.queue("q").put_many(range(6))
        with trio.fail_after(10), trio.CancelScope() as scope:
            try:
                await loop()
            except ZeroDivisionError:
                assert leave == "error"
        assert scope.cancelled_caught == (leave == "cancel")
        assert statuses(app) == {"ready": 5, "succeeded": 1}
    assert attempts(app, database) == [1, 0, 0, 0, 0, 0]


async def test_waiting_claim_that_is_cancelled_leaves_the_next_task_to_others(make_app: MakeApp) -> None:
    app = make_app()
    async with app:
        queue = app.queue("q")
        with trio.move_on_after(0.2):
            await queue.claim(wait_s=60)
        await queue.put("x")
        task = await queue.claim()
        assert task is not None
        await task.succeed()
    assert statuses(app) == {"succeeded": 1}


@pytest.mark.parametrize(
    ("act", "status", "attempt"),
    [
        (lambda task: task.succeed("done"), "succeeded", 1),
        (lambda task: task.fail("no"), "delayed", 1),
        (lambda task: task.fail("no", retry=False), "failed", 1),
        (lambda task: task.release(), "ready", 0),
        (lambda task: task.release(60), "delayed", 0),
        (lambda task: task.snooze(60), "delayed", 0),
        (lambda task: task.cancel("why"), "cancelled", 1),
    ],
    ids=["succeed", "fail", "fail for good", "release", "release later", "snooze", "cancel"],
)
async def test_method_ends_the_attempt_in_its_way(
    make_app: MakeApp, database: str, act: Act, status: str, attempt: int
) -> None:
    app = make_app(retry=Retry(max_attempts=3, first_s=60, jitter=False))
    async with app:
        handle = await app.queue("q").put("x")
        task = await app.queue("q").claim()
        assert task is not None
        await task.progress(0.5, "half")
        await task.extend(60)
        said = await handle.progress()
        while said is None:  # what the majority has
            said = await handle.progress()
        assert (said.value, said.note) == (0.5, "half")
        await act(task)
        assert statuses(app) == {status: 1}
        assert attempts(app, database) == [attempt]


async def in_transaction(task: Task) -> None:
    async with task.transaction():
        pass


async def in_block(task: Task) -> None:
    async with task:
        pass


@pytest.mark.parametrize(
    "act",
    [
        lambda task: task.succeed(),
        lambda task: task.fail("no"),
        lambda task: task.release(),
        lambda task: task.snooze(5),
        lambda task: task.cancel(),
        lambda task: task.extend(),
        lambda task: task.progress(1),
        lambda task: task.run_in_transaction(lambda session: None),
        in_transaction,
        in_block,
    ],
    ids=[
        "succeed",
        "fail",
        "release",
        "snooze",
        "cancel",
        "extend",
        "progress",
        "run_in_transaction",
        "transaction",
        "block",
    ],
)
async def test_stale_holder_is_refused_everything_and_changes_nothing(
    make_app: MakeApp, database: str, act: Act
) -> None:
    app = make_app()
    async with app:
        await app.queue("q").put("x")
        stale = await app.queue("q").claim()
        assert stale is not None
        tasks = app.client[database].tasks
        tasks.update_one({"status": "running"}, {"$set": {"claim_id": b"somebody else's."}})
        before = tasks.find_one({"queue": "q"})
        with pytest.raises(LeaseLost):
            await act(stale)
        assert tasks.find_one({"queue": "q"}) == before


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        (Shared.by_weight({"high": 3, "low": 1}, slots=1), {"high": 12, "low": 4}),
        (Shared.in_order(["high", "low"], slots=1), {"high": 16}),
    ],
    ids=["weights", "order"],
)
async def test_one_worker_serves_several_queues_as_they_share_it(
    make_app: MakeApp, shared: Shared, expected: dict[str, int]
) -> None:
    app = make_app()
    ran: list[str] = []
    enough = trio.Event()

    async def note(queue: str) -> None:
        ran.append(queue)
        if len(ran) == 16:
            enough.set()

    handlers = {queue: app.task(queue=queue, name=queue)(partial(note, queue)) for queue in ("high", "low")}
    async with app, trio.open_nursery() as nursery:
        await app.put_many([handlers[queue].new() for queue in ("low", "high") for _ in range(20)])
        await nursery.start(app.work, shared)
        await enough.wait()
        nursery.cancel_scope.cancel()
    assert Counter(ran[:16]) == expected


async def test_embedded_worker_leaves_signals_alone(make_app: MakeApp) -> None:
    app = make_app()

    @app.task
    async def nothing() -> None: ...

    def handlers() -> list[Any]:
        return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)]

    before = handlers()
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        assert handlers() == before
        await (await nothing.put()).result(timeout_s=5)
        assert handlers() == before
        nursery.cancel_scope.cancel()
    assert handlers() == before
