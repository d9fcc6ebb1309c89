"""Several idle processes on the real server: one task costs about one claim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import trio
from bson import Timestamp
from pymongo import MongoClient

from streamq import Handler, StreamQ
from tests.integration.conftest import MakeApp
from tests.long_form import sized

PROCESSES = 4
TASKS = 30
SOON_S = 10.0  # less than a heartbeat
HERD = sized(16, 100)
HERD_S = 60.0


def noting(app: StreamQ, note: Callable[[], None], keep_s: float | None = None) -> Handler[[], None, Any]:
    """Declare the handler, which calls `note`."""

    async def run() -> None:
        note()

    return app.task(queue="q", name="note", keep_s=keep_s)(run)


async def serve(app: StreamQ, *, task_status: trio.TaskStatus[None]) -> None:
    """Be a process that works on one task at a time."""
    async with app, trio.open_nursery() as inner:
        await inner.start(app.work, {"q": 1})
        task_status.started()


def claim_calls(apps: Sequence[StreamQ]) -> int:
    """Count how often they have asked the server for a task."""
    return sum(app.journal.counts["claim calls"] for app in apps)


async def acquainted(apps: Sequence[StreamQ]) -> None:
    """Wait until each knows of all the others."""
    while not all(len(known(app)) == len(apps) - 1 for app in apps):  # noqa: ASYNC110 - by the stream
        await trio.sleep(0.05)


def known(app: StreamQ) -> tuple[object, ...]:
    return app.services().watcher._rendezvous._others.get("q", ())


async def test_one_task_at_a_time_wastes_few_claims(make_app: MakeApp) -> None:
    ended = trio.Event()
    apps = [make_app(safety_scan_s=None) for _ in range(PROCESSES)]
    producer = make_app()

    def note() -> None:
        ended.set()

    put = noting(producer, note, keep_s=0)
    async with producer, trio.open_nursery() as nursery:
        for app in apps:
            noting(app, note, keep_s=0)
            await nursery.start(serve, app)
        with trio.fail_after(SOON_S):
            await acquainted(apps)
        before = claim_calls(apps)
        for _ in range(TASKS):
            ended = trio.Event()
            await put.put()
            with trio.fail_after(SOON_S):
                await ended.wait()
        tried = claim_calls(apps) - before
        nursery.cancel_scope.cancel()
    assert tried - TASKS < TASKS  # without an order it is one in each of the others: three times as many


async def test_one_task_costs_each_of_many_processes_one_claim_at_most(make_app: MakeApp) -> None:
    ran: list[int] = []
    apps = [make_app(safety_scan_s=None) for _ in range(HERD)]
    producer = make_app()

    def note() -> None:
        ran.append(1)

    put = noting(producer, note)
    async with producer, trio.open_nursery() as nursery:
        for app in apps:
            noting(app, note)
            await nursery.start(serve, app)
        before = claim_calls(apps)
        handle = await put.put()
        await handle.result(timeout_s=HERD_S)
        tried = claim_calls(apps) - before
        nursery.cancel_scope.cancel()
    assert ran == [1]
    assert tried <= HERD


async def test_task_with_an_id_of_another_producer_is_run_beside_other_workers(
    make_app: MakeApp, mongo: MongoClient[dict[str, Any]], database: str
) -> None:
    apps = [make_app(safety_scan_s=None) for _ in range(2)]
    put = apps[0].blocking.queue("q").put("first")
    tasks = mongo[database]["tasks"]
    stored = tasks.find_one({"_id": put.id}) or {}
    with trio.fail_after(SOON_S):
        async with apps[0], apps[1], trio.open_nursery() as nursery:
            send, receive = trio.open_memory_channel[object](10)

            async def serve(app: StreamQ) -> None:
                async with app.queue("q").consume() as claimed:
                    async for task in claimed:
                        async with task:
                            await send.send(task.info.id)

            for app in apps:
                nursery.start_soon(serve, app)
            assert await receive.receive() == put.id
            await acquainted(apps)
            for id in ("by hand", 7, "once more"):
                await trio.to_thread.run_sync(tasks.insert_one, stored | {"_id": id, "seq": Timestamp(0, 0)})
                assert await receive.receive() == id
            nursery.cancel_scope.cancel()
