"""Several idle processes on the real server: one task costs about one claim."""

from __future__ import annotations

from typing import Any

import trio
from bson import Timestamp
from pymongo import MongoClient

from streamq import StreamQ
from tests.integration.conftest import MakeApp

PROCESSES = 4
TASKS = 30
SOON_S = 10.0  # less than a heartbeat


async def test_one_task_at_a_time_wastes_few_claims(make_app: MakeApp) -> None:
    ended = trio.Event()
    apps = [make_app(safety_scan_s=None) for _ in range(PROCESSES)]
    producer = make_app()

    def declared(app: StreamQ):  # type: ignore[no-untyped-def]
        @app.task(queue="q", name="note", keep_s=0)
        async def note() -> None:
            ended.set()

        return note

    async def serve(app: StreamQ, *, task_status: trio.TaskStatus[None]) -> None:
        async with app, trio.open_nursery() as inner:
            await inner.start(app.work, {"q": 1})
            task_status.started()

    put = declared(producer)
    async with producer, trio.open_nursery() as nursery:
        for app in apps:
            declared(app)
            await nursery.start(serve, app)
        with trio.fail_after(SOON_S):
            while not all(len(known(app)) == PROCESSES - 1 for app in apps):  # noqa: ASYNC110 - by the stream
                await trio.sleep(0.05)
        before = sum(app.journal.counts["claim calls"] for app in apps)
        for _ in range(TASKS):
            ended = trio.Event()
            await put.put()
            with trio.fail_after(SOON_S):
                await ended.wait()
        tried = sum(app.journal.counts["claim calls"] for app in apps) - before
        nursery.cancel_scope.cancel()
    assert tried - TASKS < TASKS  # without an order it is one in each of the others: three times as many


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
            while not all(known(app) for app in apps):  # noqa: ASYNC110 - by the stream
                await trio.sleep(0.05)
            for id in ("by hand", 7, "once more"):
                await trio.to_thread.run_sync(tasks.insert_one, stored | {"_id": id, "seq": Timestamp(0, 0)})
                assert await receive.receive() == id
            nursery.cancel_scope.cancel()


def known(app: StreamQ) -> tuple[object, ...]:
    return app.services().watcher._rendezvous._others.get("q", ())
