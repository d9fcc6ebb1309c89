"""Workers within limits: when tasks start, how many run, and who is woken when there is room again."""

from __future__ import annotations

import pytest
import trio

from streamq import Handler, Rate, StreamQ, UsageError
from streamq.bridge import InlineBridge
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time
from tests.runtime.test_leases import working


async def test_worker_starts_a_burst_at_once_and_then_one_each_token() -> None:
    app = memory_app(safety_scan_s=None)
    app.limit("default", rate=Rate(1, per_s=10, burst=3))
    began: list[float] = []

    @app.task
    async def job() -> None:
        began.append(round(trio.current_time() - start, 2))

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        start = trio.current_time()
        await app.put_many([job.new() for _ in range(6)])
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert began == [0, 0, 0, 10, 20, 30]


async def test_workers_of_one_queue_run_no_more_than_its_limit_and_pass_free_slots_on() -> None:
    """The second process hears that the first has freed a slot."""
    store = MemoryStore(trio_time)
    running, most, done = 0, 0, 0
    jobs: list[Handler[[], None, object]] = []

    def make() -> StreamQ:
        app = StreamQ.on(store, InlineBridge(), safety_scan_s=None)
        app.limit("default", running=3)

        @app.task
        async def job() -> None:
            nonlocal running, most, done
            running += 1
            most = max(most, running)
            await trio.sleep(1)
            running -= 1
            done += 1

        jobs.append(job)
        return app

    first, second = make(), make()
    async with first, second, trio.open_nursery() as nursery:
        await nursery.start(first.work, {"default": 2})
        await nursery.start(second.work, {"default": 2})
        await trio.sleep(10)
        store.put([jobs[0].new() for _ in range(30)])
        await trio.sleep(10.5)
        assert done == 30
        assert most == 3
        nursery.cancel_scope.cancel()


async def test_tasks_of_a_busy_key_wait_and_others_go_on() -> None:
    app = memory_app(safety_scan_s=None)
    app.limit("default", key_running=1)
    ended: list[str] = []

    @app.task
    async def job(name: str, seconds: float) -> None:
        await trio.sleep(seconds)
        ended.append(name)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        for name in ("a1", "a2", "a3"):
            await job.options(rate_key="a").put(name, 10)
        await job.options(rate_key="b").put("b1", 1)
        await job.put("none", 2)
        await trio.sleep(30.5)
        assert ended == ["b1", "none", "a1", "a2", "a3"]
        nursery.cancel_scope.cancel()


async def test_slot_of_a_key_that_is_free_untold_is_found_by_the_safety_scan() -> None:
    """What waits for it is not ready: a look for ready tasks does not see it. In virtual time, as all here."""
    app = memory_app(safety_scan_s=30)
    app.limit("default", key_running=1)
    began: list[float] = []

    @app.task
    async def job() -> None:
        began.append(trio.current_time() - start)
        await trio.sleep(10)

    store = app.store
    assert isinstance(store, MemoryStore)
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        start = trio.current_time()
        await app.put_many([job.options(rate_key="a").new() for _ in range(2)])
        await trio.sleep(9)
        feeds, store.feeds[:] = list(store.feeds), []
        await trio.sleep(2)
        store.feeds[:] = feeds
        await trio.sleep(31)
        nursery.cancel_scope.cancel()
    first, second = began
    assert first == 0
    assert 11 < second < 42


async def test_bare_loop_keeps_to_the_limits_of_its_queue_and_fetches_nothing_ahead() -> None:
    app = memory_app(safety_scan_s=None)
    app.limit("ticks", rate=Rate(1, per_s=10, burst=1))
    began: list[float] = []
    async with app:
        queue = app.queue("ticks")
        await queue.put_many(range(3))
        async with queue.consume(prefetch=10) as tasks:
            start = trio.current_time()
            async for task in tasks:
                async with task:
                    began.append(round(trio.current_time() - start, 2))
                assert (await app.counts())["ticks"].get("running", 0) == 0
                if len(began) == 3:
                    break
    assert began == [0, 10, 20]


async def test_bare_loop_takes_no_slot_for_a_task_that_would_wait_here() -> None:
    app = memory_app(safety_scan_s=None)
    app.limit("ticks", running=5)
    async with app:
        queue = app.queue("ticks")
        await queue.put_many(range(5))
        async with queue.consume(prefetch=10) as tasks:
            async for task in tasks:
                await trio.sleep(0.5)
                running = (await app.counts())["ticks"]["running"]
                await task.succeed()
                break
    assert running == 1


async def test_limits_that_are_declared_while_tasks_are_taken_are_refused() -> None:
    """Whoever takes them would not heed them."""
    app = memory_app()

    @app.task
    async def job() -> None: ...

    async with working(app):
        with pytest.raises(UsageError, match="come too late"):
            app.limit("default", running=1)
        app.limit("another", running=1)
    app.limit("default", running=1)
