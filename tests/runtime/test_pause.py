"""A paused queue: nothing begins, what has not begun goes back, what runs goes on; resuming finds all that waits."""

from __future__ import annotations

import trio
import trio.testing

from streamq import Shared
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app
from tests.runtime.test_cancel import settled, slow_app
from tests.runtime.test_leases import memory, stored, working


async def test_paused_queue_begins_nothing_and_resumed_it_begins_all() -> None:
    app = memory_app(safety_scan_s=None)
    began: list[int] = []

    @app.task(queue="q")
    async def note(number: int) -> None:
        began.append(number)

    async with working(app):
        queue = app.queue("q")
        assert not await queue.is_paused()
        await queue.pause()
        assert await queue.is_paused()
        await settled()
        for number in range(5):
            await note.put(number)
        await note.options(delay_s=5).put(5)
        await trio.sleep(100)
        assert began == []
        assert memory(app).counts() == {"q": {"ready": 6}}
        await queue.resume()
        await settled()
        assert sorted(began) == [0, 1, 2, 3, 4, 5]
        assert not await queue.is_paused()


async def test_other_queues_go_on() -> None:
    app = memory_app()

    @app.task(queue="other")
    async def note() -> str:
        return "done"

    async with working(app), app.queue("q").consume():
        await app.queue("q").pause()
        await settled()
        assert await (await note.put()).result() == "done"


async def test_running_task_finishes_and_what_waits_in_the_process_goes_back_uncounted() -> None:
    app = memory_app()
    async with app, app.queue("q").consume(prefetch=3) as tasks:
        handles = await app.queue("q").put_many(range(4))
        async with await anext(tasks) as task:
            await settled()
            assert memory(app).counts()["q"]["running"] >= 3
            await app.queue("q").pause()
            await settled()
            assert memory(app).counts() == {"q": {"ready": 3, "running": 1}}
            assert task.payload == 0
        await settled()
        assert memory(app).counts() == {"q": {"ready": 3, "succeeded": 1}}
        assert [stored(app, handle)["attempt"] for handle in handles] == [1, 0, 0, 0]
        await app.queue("q").resume()
        assert (await anext(tasks)).payload == 1


async def test_claim_that_was_in_flight_when_the_pause_came_gives_back_what_it_obtained() -> None:
    app, bridge = slow_app()
    began: list[int] = []

    @app.task(queue="q")
    async def note(number: int) -> None:
        began.append(number)

    async with working(app):
        await settled()
        bridge.slow["claim"] = 5.0
        handle = await note.put(1)
        await trio.sleep(1)
        assert stored(app, handle)["status"] == "running"
        await app.queue("q").pause()
        await trio.sleep(10)
        assert began == []
        assert (stored(app, handle)["status"], stored(app, handle)["attempt"]) == ("ready", 0)
        await app.queue("q").resume()
        await trio.sleep(10)
        assert began == [1]


async def test_worker_that_starts_on_a_paused_queue_begins_nothing() -> None:
    app = memory_app(safety_scan_s=None)

    @app.task(queue="q")
    async def note() -> str:
        return "done"

    async with app:
        handle = await note.put()
        await app.queue("q").pause()
    async with working(app):
        await trio.sleep(100)
        assert stored(app, handle)["status"] == "ready"
        async with app.queue("q").consume() as tasks:  # joins a stream that is open already
            with trio.move_on_after(10):
                await anext(tasks)
                raise AssertionError("claimed from a paused queue")
        await app.queue("q").resume()
        assert await handle.result() == "done"


async def test_word_that_the_stream_lost_is_made_up_for_by_the_safety_scan_and_by_a_new_stream() -> None:
    app = memory_app(safety_scan_s=30)
    async with app, app.queue("q").consume(prefetch=0) as tasks:
        memory(app)._paused["q"] = True  # as if it had never been told
        await trio.sleep(31)
        handle = await app.queue("q").put(1)
        with trio.move_on_after(5):
            await anext(tasks)
        assert stored(app, handle)["status"] == "ready"
        memory(app)._paused["q"] = False
        async with app.queue("another").consume():  # a wider stream: it is opened anew
            with trio.fail_after(1):
                assert (await anext(tasks)).payload == 1


async def test_answer_that_is_older_than_what_the_stream_told_is_asked_for_again() -> None:
    app, bridge = slow_app(safety_scan_s=30)
    async with app, app.queue("q").consume(prefetch=0) as tasks:
        bridge.slow["paused"] = 5.0
        await trio.sleep(31)  # the look is on its way back with "not paused"
        await app.queue("q").pause()
        await trio.sleep(20)
        handle = await app.queue("q").put(1)
        with trio.move_on_after(5):
            await anext(tasks)
        assert stored(app, handle)["status"] == "ready"


async def test_bare_claim_respects_the_pause_and_wakes_when_it_ends() -> None:
    app = memory_app()
    async with app:
        queue = app.queue("q")
        await queue.pause()
        await queue.put(1)
        assert await queue.claim() is None
        assert await queue.pop() is None
        assert await queue.claim(wait_s=10) is None
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                task = await queue.claim(wait_s=100)
                assert task is not None
                assert task.payload == 1

            nursery.start_soon(wait)
            await settled()
            await queue.resume()


async def test_pausing_twice_is_told_once() -> None:
    app = memory_app()
    assert isinstance(app.store, MemoryStore)
    async with app, app.queue("q").consume():
        for _ in range(3):
            await app.queue("q").pause()
        await settled()
        for _ in range(3):
            await app.queue("q").resume()
        assert not await app.queue("q").is_paused()


async def test_queue_that_shares_slots_with_a_paused_one_gets_them() -> None:
    app = memory_app()
    done: list[str] = []

    @app.task(queue="q")
    async def first() -> None:
        done.append("q")

    @app.task(queue="r")
    async def second() -> None:
        done.append("r")

    async with app, trio.open_nursery() as nursery:
        await app.queue("q").pause()
        for _ in range(3):
            await first.put()
            await second.put()
        shared = Shared.by_weight({"q": 9, "r": 1}, slots=1)
        await nursery.start(lambda task_status: app.work(shared, task_status=task_status))
        await settled()
        assert done == ["r", "r", "r"]
        await app.queue("q").resume()
        await settled()
        assert done == ["r", "r", "r", "q", "q", "q"]
        nursery.cancel_scope.cancel()
