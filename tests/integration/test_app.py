"""The whole road through `StreamQ`, on a real server and with real threads."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pymongo.monitoring
import pytest
import trio
import trio.testing
from bson import ObjectId
from pymongo import MongoClient

from streamq import Handle, OptionInvalid, Retry, Snooze, StreamQ, TaskFailed, TaskGone, current_task
from tests.integration.conftest import MakeApp, Mongo
from tests.long_form import sized
from tests.patience import eventually

DELAYED: Final = sized(200, 10_000)
IDLE_S: Final = sized(30, 600)


async def test_road_of_tasks_of_every_kind(make_app: MakeApp) -> None:
    app = make_app(retry=Retry(max_attempts=3, first_s=0))
    tries: list[int] = []

    @app.task
    async def double(number: int) -> int:
        return number * 2

    @app.task
    async def flaky() -> int:
        tries.append(current_task().attempt)
        if len(tries) < 3:
            raise ValueError("not yet")
        return len(tries)

    @app.task(retry=Retry(max_attempts=1))
    async def broken() -> None:
        raise LookupError("never")

    @app.task
    async def sleepy() -> int:
        if len(tries) < 100:
            tries.extend([0] * 100)
            raise Snooze(0.05)
        return current_task().attempt

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        doubled = [await double.put(number) for number in range(20)]
        assert [await one.result(timeout_s=10) for one in doubled] == [number * 2 for number in range(20)]
        assert await (await flaky.put()).result(timeout_s=10) == 3
        assert tries == [1, 2, 3]
        with pytest.raises(TaskFailed, match="LookupError: never"):
            await (await broken.put()).result(timeout_s=10)
        assert await (await sleepy.put()).result(timeout_s=10) == 1
        nursery.cancel_scope.cancel()


async def test_sync_handlers_run_side_by_side_in_threads_and_know_their_task(make_app: MakeApp) -> None:
    app = make_app()
    together = threading.Barrier(4)

    @app.task
    def meet(number: int) -> list[Any]:
        together.wait(timeout=10)  # all four are inside at once, or it breaks
        return [number, current_task().attempt, threading.current_thread() is threading.main_thread()]

    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=4, task_status=task_status))
        handles = [await meet.put(number) for number in range(4)]
        assert [await one.result(timeout_s=10) for one in handles] == [[number, 1, False] for number in range(4)]
        nursery.cancel_scope.cancel()


async def test_sync_handler_past_its_timeout_fails_its_attempt_and_the_worker_goes_on(make_app: MakeApp) -> None:
    app = make_app(retry=Retry(max_attempts=1))
    go = threading.Event()

    @app.task(timeout_s=0.2)
    def stuck() -> None:
        go.wait(timeout=30)

    @app.task
    async def fine() -> str:
        return "fine"

    try:
        async with app, trio.open_nursery() as nursery:
            await nursery.start(app.work)
            with pytest.raises(TaskFailed, match="TaskTimeout"):
                await (await stuck.put()).result(timeout_s=10)
            assert await (await fine.put()).result(timeout_s=10) == "fine"
            assert app.journal.counts["thread left behind"] == 1
            nursery.cancel_scope.cancel()
    finally:
        go.set()


async def test_stopping_waits_for_a_handler_in_a_thread_and_its_result_counts(make_app: MakeApp) -> None:
    """A thread cannot be cancelled, and its task must not start elsewhere while it runs."""
    app = make_app()
    began, go = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    @app.task
    def slow() -> str:
        token.run_sync_soon(began.set)
        go.wait(timeout=30)
        return "done"

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        handle = await slow.put()
        await began.wait()
        nursery.cancel_scope.cancel()
        token.run_sync_soon(go.set)
    async with app:
        assert await handle.result(timeout_s=5) == "done"


async def test_put_of_another_client_wakes_an_idle_worker_by_the_stream(make_app: MakeApp) -> None:
    here, elsewhere = make_app(safety_scan_s=None), make_app()

    @here.task
    async def echo(text: str) -> str:
        return text

    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        for number in range(20):
            (handle,) = await elsewhere.put_many([echo.new(f"n{number}")])
            assert await handle.result(timeout_s=5) == f"n{number}"
        nursery.cancel_scope.cancel()


async def test_delayed_task_starts_on_time_and_never_early(make_app: MakeApp) -> None:
    app = make_app(safety_scan_s=None)

    @app.task
    async def when() -> float:
        return trio.current_time()

    chance = random.Random(20_261_123)
    handles: list[Handle[float]] = []
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        due = []
        for _ in range(DELAYED):
            delay_s = chance.uniform(0.0, 2.0)
            due.append(trio.current_time() + delay_s)
            handles.append(await when.options(delay_s=delay_s).put())
        late_s = sorted([await handle.result(timeout_s=60) - at for handle, at in zip(handles, due, strict=True)])
        nursery.cancel_scope.cancel()
    # The server's clock has milliseconds, and its estimate here is ahead of it by at most a round trip.
    assert late_s[0] >= -0.002
    # Nothing but the timer would start it at all. How late it is on a quiet machine the long form asks for.
    assert late_s[DELAYED * 99 // 100] < sized(5.0, 0.25)


async def test_result_reaches_two_waiters_here_and_one_in_another_app(make_app: MakeApp) -> None:
    here, elsewhere = make_app(), make_app()
    go = trio.Event()
    heard: list[Any] = []

    @here.task
    async def wait() -> dict[str, int]:
        await go.wait()
        return {"rows": 3}

    async def hear(app: StreamQ, id: ObjectId) -> None:
        heard.append(await app.handle(id).result(timeout_s=10))

    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        handle = await wait.put()
        async with trio.open_nursery() as waiters:
            for app in (here, here, elsewhere):
                waiters.start_soon(hear, app, handle.id)
            here_waits, there_waits = here.services().waiters._waiting, elsewhere.services().waiters._waiting
            with trio.fail_after(5):
                while len(here_waits.get(handle.id, ())) < 2 or not there_waits.get(handle.id):  # noqa: ASYNC110
                    await trio.sleep(0.01)
            go.set()
        nursery.cancel_scope.cancel()
    assert heard == [{"rows": 3}] * 3


async def test_handle_of_a_task_that_was_never_put_is_gone(make_app: MakeApp) -> None:
    async with make_app() as app:
        with pytest.raises(TaskGone):
            await app.handle(ObjectId()).result(timeout_s=5)


# --- in the caller's transaction -------------------------------------------------------------------------------


async def test_put_in_a_transaction_wakes_a_worker_at_the_commit_and_not_before(
    make_app: MakeApp, database: str
) -> None:
    app = make_app(safety_scan_s=None)
    ran: list[str] = []

    @app.task
    async def note(name: str) -> str:
        ran.append(name)
        return name

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        orders = app.client[database].orders
        with app.client.start_session() as session, session.start_transaction():
            await trio.to_thread.run_sync(lambda: orders.insert_one({"_id": 1}, session=session))
            reply = app.blocking.put(note.new("in the order"), session=session)
            assert await (await note.put("beside it")).result(timeout_s=5) == "beside it"
            assert ran == ["beside it"]
        assert await app.handle(reply.id).result(timeout_s=5) == "in the order"
        nursery.cancel_scope.cancel()


async def test_put_in_a_transaction_that_is_aborted_leaves_nothing(make_app: MakeApp, database: str) -> None:
    app = make_app()
    async with app:
        with app.client.start_session() as session:
            session.start_transaction()
            handle = await app.queue("q").put({"order": 1}, session=session)
            session.abort_transaction()
        with pytest.raises(TaskGone):
            await handle.status()
        assert await app.counts() == {}


async def test_session_of_a_foreign_client_is_refused_by_name(make_app: MakeApp, mongo: Mongo) -> None:
    async with make_app() as app:
        with mongo.start_session() as session, pytest.raises(OptionInvalid, match="session"):
            await app.queue("q").put(1, session=session)
        assert await app.counts() == {}


# --- quiet, and quickly gone -----------------------------------------------------------------------------------


def streamq_threads() -> list[str]:
    """Name the functions of streamq in which other threads are now (trio keeps idle threads for a while: they count
    as gone)."""
    found = []
    for ident, frame in sys._current_frames().items():
        if ident == threading.get_ident():
            continue
        walker: Any = frame
        while walker is not None:
            if "/streamq/" in walker.f_code.co_filename:
                found.append(f"{walker.f_code.co_filename}:{walker.f_code.co_name}")
                break
            walker = walker.f_back
    return found


async def test_worker_whose_stream_waits_stops_at_once_and_leaves_no_thread(make_app: MakeApp) -> None:
    app = make_app()

    @app.task
    async def nothing() -> None: ...

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        await (await nothing.put()).result(timeout_s=5)
        assert streamq_threads(), "the stream is read in a thread"
        began_at = time.monotonic()
        nursery.cancel_scope.cancel()
    assert time.monotonic() - began_at < 0.5
    # One that has just handed over its answer may still be on its way out.
    assert eventually(lambda: not streamq_threads(), within_s=1.0), streamq_threads()


class Commands(pymongo.monitoring.CommandListener):
    """Keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None:
        self.sent.append((event.command_name, event.command))

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None:
        return

    def failed(self, event: pymongo.monitoring.CommandFailedEvent) -> None:
        return


@contextmanager
def heard_client(uri: str) -> Iterator[tuple[Mongo, Commands]]:
    commands = Commands()
    with MongoClient[dict[str, Any]](uri, event_listeners=[commands], tz_aware=True) as client:
        yield client, commands


async def test_idle_consumer_sends_next_to_nothing(uri: str, database: str) -> None:
    """No polling: with nothing to do, two seconds see one command at the most and no look for tasks to run."""
    with heard_client(uri) as (client, commands):
        app = StreamQ(client=client, database=database, safety_scan_s=None)

        @app.task
        async def nothing() -> None: ...

        async with app, app.queue("other").consume(prefetch=8), trio.open_nursery() as nursery:
            await nursery.start(app.work)
            await (await nothing.put()).result(timeout_s=5)
            began = -1
            while began < len(commands.sent):  # until the start's own looks are over
                began = len(commands.sent)
                await trio.sleep(0.5)
            await trio.sleep(IDLE_S)  # the stretch of time that is measured
            sent = commands.sent[began:]
            nursery.cancel_scope.cancel()
    assert sent, "the stream itself is read"
    assert len(sent) <= IDLE_S / 2, [name for name, _ in sent]
    looks = [command["filter"]["status"] for name, command in sent if name == "find" and "status" in command["filter"]]
    assert looks == ["blocked"] * len(looks)  # the sweep for what is blocked
    assert len(looks) <= 1 + IDLE_S / 20  # which comes about twice a minute
    assert "findAndModify" not in [name for name, _ in sent]


async def test_claim_asks_for_a_pause_together_with_the_head_of_its_queue(uri: str, database: str) -> None:
    with heard_client(uri) as (client, commands):
        app = StreamQ(client=client, database=database)
        async with app:
            queue = app.queue("q")
            await queue.put_many(range(2))

            async def sent(act: Callable[[], Awaitable[object]]) -> list[str]:
                begun = len(commands.sent)
                await act()
                return [name for name, _ in commands.sent[begun:] if name in ("find", "aggregate", "update")]

            assert await sent(queue.claim) == ["aggregate", "update"]
            await queue.pause()
            assert await sent(queue.claim) == ["aggregate"]
            await queue.resume()
            assert await sent(queue.pop) == ["aggregate", "update", "update"]


async def test_herd_of_workers_claims_one_task_once(make_app: MakeApp) -> None:
    apps = [make_app(safety_scan_s=None) for _ in range(6)]
    ran: list[int] = []

    for number, app in enumerate(apps):

        @app.task(name="note")
        async def note(number: int = number) -> int:
            ran.append(number)
            return number

    async with trio.open_nursery() as nursery:
        for app in apps:
            await nursery.start(_work, app)
        for turn in range(10):
            handle = await apps[turn % 6].put_many([note.new()])
            await handle[0].result(timeout_s=10)
        nursery.cancel_scope.cancel()
    assert len(ran) == 10
    assert sum(app.journal.counts["claimed"] for app in apps) == 10


async def _work(app: StreamQ, *, task_status: trio.TaskStatus[None]) -> None:
    async with app:
        await app.work(task_status=task_status)


async def test_payload_comes_back_exactly(make_app: MakeApp) -> None:
    app = make_app()
    payload = {"$set": "$tok", "a.b": [1, 2.5, None, True], "big": 2**80, "bytes": b"\0x", "nul": "a\0b"}
    async with app:
        await app.queue("q").put(payload)
        async with app.queue("q").consume() as tasks:
            async for task in tasks:
                assert task.payload == payload
                await task.succeed(payload)
                break
        assert await app.handle(task.info.id).result(timeout_s=5) == payload
