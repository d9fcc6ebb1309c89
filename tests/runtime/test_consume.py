"""The bare loop: nothing is lost however it is left, and nothing waits here that should not."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any, cast

import pytest
import trio
import trio.testing

from streamq import Handle, LeaseLost, Retry, Snooze, StreamQ, Task, Tasks, UsageError
from streamq.core.document import TaskDocument
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time


def memory(app: StreamQ) -> MemoryStore:
    return cast(MemoryStore, app.store)


def stored(app: StreamQ, handle: Handle[Any]) -> TaskDocument:
    return memory(app).documents[handle.id]


def statuses(app: StreamQ) -> Counter[str]:
    return Counter(document["status"] for document in memory(app).documents.values())


def attempts(app: StreamQ) -> list[int]:
    return [document["attempt"] for document in memory(app).documents.values()]


async def take(tasks: Tasks) -> Task:
    async for task in tasks:
        return task
    raise AssertionError("the loop ended")


async def test_loop_takes_tasks_in_order_and_settles_them_by_leaving_the_block() -> None:
    app = memory_app()
    seen: list[Any] = []
    async with app:
        await app.queue("q").put_many(range(10))
        async with app.queue("q").consume(prefetch=3) as tasks:
            async for task in tasks:
                async with task:
                    seen.append(task.payload)
                if len(seen) == 10:
                    break
    assert seen == list(range(10))
    assert statuses(app) == {"succeeded": 10}


async def test_break_gives_back_what_was_prefetched_uncounted() -> None:
    app = memory_app()
    async with app:
        await app.queue("q").put_many(range(10))
        async with app.queue("q").consume(prefetch=5) as tasks:
            async for task in tasks:
                async with task:
                    await trio.testing.wait_all_tasks_blocked()
                    assert statuses(app)["running"] == 6
                break
    assert statuses(app) == {"succeeded": 1, "ready": 9}
    assert sorted(attempts(app)) == [0] * 9 + [1]


async def test_task_taken_and_not_settled_is_given_back_when_the_block_is_left() -> None:
    app = memory_app()
    async with app:
        handle = await app.queue("q").put(1)
        async with app.queue("q").consume() as tasks:
            task = await take(tasks)
            assert task.info.id == handle.id
    assert (stored(app, handle)["status"], stored(app, handle)["attempt"]) == ("ready", 0)


async def test_exception_in_the_task_block_fails_the_attempt_and_the_loop_goes_on() -> None:
    app = memory_app(retry=Retry(max_attempts=2, first_s=0))
    async with app:
        bad = await app.queue("q").put("bad")
        good = await app.queue("q").put("good")
        async with app.queue("q").consume(prefetch=0) as tasks:
            async for task in tasks:
                async with task:
                    if task.payload == "bad":
                        raise ValueError("no")
                if task.payload == "good":  # claimed after both attempts of the other, which keeps its place
                    break
        assert stored(app, good)["status"] == "succeeded"
        assert stored(app, bad)["status"] == "failed"
        assert [error["message"] for error in stored(app, bad)["errors"]] == ["no", "no"]


async def test_exception_in_the_loop_comes_out_and_gives_back_the_rest() -> None:
    app = memory_app()

    async def loop() -> None:
        async with app, app.queue("q").consume(prefetch=4) as tasks:
            async for _ in tasks:
                await trio.testing.wait_all_tasks_blocked()
                raise ZeroDivisionError

    async with app:
        await app.queue("q").put_many(range(8))
    with pytest.raises(ZeroDivisionError):
        await loop()
    assert statuses(app) == {"ready": 8}
    assert attempts(app) == [0] * 8


async def test_cancelling_out_of_the_task_block_gives_the_task_back_uncounted() -> None:
    app = memory_app()
    async with app:
        await app.queue("q").put_many(range(8))
        with trio.move_on_after(10):
            async with app.queue("q").consume(prefetch=4) as tasks:
                async for task in tasks:
                    async with task:
                        await trio.sleep_forever()
        assert statuses(app) == {"ready": 8}
        assert attempts(app) == [0] * 8


async def test_program_exit_in_the_task_block_gives_the_task_back_and_goes_on_out() -> None:
    app = memory_app()

    async def loop() -> None:
        async with app, app.queue("q").consume() as tasks:
            async for task in tasks:
                async with task:
                    raise SystemExit(3)

    async with app:
        handle = await app.queue("q").put(1)
    with pytest.raises(SystemExit):
        await loop()
    assert (stored(app, handle)["status"], stored(app, handle)["attempt"]) == ("ready", 0)


@pytest.mark.parametrize("prefetch", [0, 1, 4])
async def test_prefetch_tasks_wait_here_beyond_the_one_in_hand(prefetch: int) -> None:
    app = memory_app()
    async with app:
        await app.queue("q").put_many(range(20))
        async with app.queue("q").consume(prefetch=prefetch) as tasks:
            async for task in tasks:
                async with task:
                    await trio.sleep(1)
                    assert statuses(app)["running"] == 1 + prefetch
                if statuses(app)["ready"] < 10:
                    break


async def test_prefetch_zero_claims_nothing_until_asked() -> None:
    app = memory_app()
    async with app:
        await app.queue("q").put_many(range(3))
        async with app.queue("q").consume(prefetch=0) as tasks:
            await trio.sleep(100)
            assert statuses(app) == {"ready": 3}
            await (await take(tasks)).succeed()
            await trio.sleep(100)
            assert statuses(app) == {"ready": 2, "succeeded": 1}


async def test_single_attempt_tasks_never_wait_in_the_process() -> None:
    """A SIGKILL would burn the only attempt of a task that never started."""
    app = memory_app(retry=Retry(max_attempts=1))
    seen: list[Any] = []
    async with app:
        await app.queue("q").put_many(range(5))
        async with app.queue("q").consume(prefetch=10) as tasks:
            async for task in tasks:
                async with task:
                    seen.append(task.payload)
                    await trio.sleep(1)
                    assert statuses(app)["running"] == 1
                    await app.queue("q").put(f"meanwhile {len(seen)}")
                    await trio.sleep(1)
                    assert statuses(app)["running"] == 1
                if len(seen) == 5:
                    break
    assert seen == list(range(5))
    assert statuses(app) == {"succeeded": 5, "ready": 5}


async def test_single_attempt_task_is_claimed_alone_while_others_are_prefetched() -> None:
    app = memory_app()
    async with app:
        queue = app.queue("q")
        once = [await queue.put("once", max_attempts=1) for _ in range(2)]
        many = [await queue.put("many") for _ in range(3)]
        async with queue.consume(prefetch=10) as tasks, await take(tasks) as task:
            assert task.payload == "once"
            await trio.sleep(1)
            assert [stored(app, one)["status"] for one in once] == ["running", "ready"]
            assert {stored(app, one)["status"] for one in many} == {"running"}


async def test_single_attempt_task_stopped_while_it_ran_fails_rather_than_runs_twice() -> None:
    app = memory_app(retry=Retry(max_attempts=1))
    async with app:
        handle = await app.queue("q").put(1)
        with trio.move_on_after(10):
            async with app.queue("q").consume() as tasks, await take(tasks):
                await trio.sleep_forever()
        assert stored(app, handle)["status"] == "failed"
        assert stored(app, handle)["errors"][0]["type"] == "Stopped"


async def test_single_attempt_task_taken_and_not_begun_is_given_back() -> None:
    app = memory_app(retry=Retry(max_attempts=1))
    async with app:
        handle = await app.queue("q").put(1)
        async with app.queue("q").consume() as tasks:
            await take(tasks)
        assert (stored(app, handle)["status"], stored(app, handle)["attempt"]) == ("ready", 0)


async def test_single_attempt_task_of_a_worker_stopped_while_it_ran_fails() -> None:
    app = memory_app(retry=Retry(max_attempts=1))
    began: list[int] = []

    @app.task
    async def once() -> None:
        began.append(1)
        await trio.sleep_forever()

    async with app:
        handle = await once.put()
        for _ in range(2):
            with trio.move_on_after(10):
                await app.work()
    assert stored(app, handle)["status"] == "failed"
    assert began == [1]


async def test_undecodable_payload_fails_for_good_and_the_loop_goes_on() -> None:
    app = memory_app()
    async with app:
        bad = await app.queue("q").put(1)
        good = await app.queue("q").put(2)
        stored(app, bad)["payload"] = {"~unheard-of": "x"}
        async with app.queue("q").consume() as tasks, await take(tasks) as task:
            assert task.payload == 2
    assert stored(app, bad)["status"] == "failed"
    assert stored(app, bad)["attempt"] == 1
    assert stored(app, bad)["errors"][0]["type"] == "PayloadUndecodable"
    assert stored(app, good)["status"] == "succeeded"


async def test_many_may_iterate_and_each_task_goes_to_one() -> None:
    app = memory_app()
    seen: list[Any] = []

    async def consume(tasks: Tasks) -> None:
        async for task in tasks:
            async with task:
                seen.append(task.payload)
                await trio.sleep(1)

    async with app:
        await app.queue("q").put_many(range(40))
        async with app.queue("q").consume(prefetch=2) as tasks, trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(consume, tasks)
            await trio.sleep(6)  # 40 tasks of 1 s by 8 hands
            assert statuses(app) == {"succeeded": 40}
            nursery.cancel_scope.cancel()
    assert sorted(seen) == list(range(40))


async def test_lost_lease_cancels_the_block_which_says_so() -> None:
    app = memory_app()
    async with app:
        handle = await app.queue("q").put(1)
        async with app.queue("q").consume() as tasks:
            task = await take(tasks)
            with pytest.raises(LeaseLost):  # noqa: PT012
                async with task:
                    stored(app, handle)["claim_id"] = b"somebody else's."
                    stored(app, handle)["lease_until"] = trio_time() + timedelta(hours=1)
                    await trio.sleep_forever()
    assert stored(app, handle)["status"] == "running"


async def test_cancelled_block_whose_lease_was_lost_as_well_is_simply_cancelled() -> None:
    app = memory_app()
    async with app:
        handle = await app.queue("q").put(1)
        async with app.queue("q").consume() as tasks:
            task = await take(tasks)
            with trio.CancelScope() as scope:
                async with task:
                    stored(app, handle)["claim_id"] = b"somebody else's."
                    stored(app, handle)["lease_until"] = trio_time() + timedelta(hours=1)
                    with trio.CancelScope(shield=True), trio.move_on_after(20):
                        scope.cancel()
                        await trio.sleep_forever()
                    assert task.is_lost
                    await trio.sleep_forever()
            assert scope.cancelled_caught


async def test_methods_end_the_attempt_each_in_its_way() -> None:
    app = memory_app(retry=Retry(max_attempts=2, first_s=60, jitter=False))
    async with app:
        queue = app.queue("q")
        names = ["succeed", "fail", "fail for good", "release", "snooze"]
        handles = {name: await queue.put(name) for name in names}
        async with queue.consume(prefetch=0) as tasks:
            for name in names:
                task = await take(tasks)
                assert task.payload == name
                match name:
                    case "succeed":
                        await task.succeed({"rows": 3})
                    case "fail":
                        await task.fail("no luck")
                    case "fail for good":
                        await task.fail(ValueError("never"), retry=False)
                    case "release":
                        await task.release()
                        again = await take(tasks)  # it keeps its place: before the next one
                        assert (again.payload, again.info.attempt) == ("release", 1)
                        await again.succeed()
                    case "snooze":
                        await task.snooze(30)
                with pytest.raises(UsageError, match="settled here already"):
                    await task.succeed()
        ends = {name: (stored(app, one)["status"], stored(app, one)["attempt"]) for name, one in handles.items()}
        assert await handles["succeed"].result() == {"rows": 3}
    assert ends == {
        "succeed": ("succeeded", 1),
        "fail": ("delayed", 1),
        "fail for good": ("failed", 1),
        "release": ("succeeded", 1),
        "snooze": ("delayed", 0),
    }
    assert stored(app, handles["fail"])["errors"][0]["message"] == "no luck"
    assert stored(app, handles["fail for good"])["errors"][0]["type"] == "ValueError"


async def test_task_settled_by_a_method_inside_its_block_is_settled_once() -> None:
    app = memory_app()
    async with app:
        handle = await app.queue("q").put(1)
        async with app.queue("q").consume() as tasks, await take(tasks) as task:
            await task.succeed("by hand")
        assert await handle.result() == "by hand"
        assert app.journal.counts["succeed"] == 1


async def test_snooze_raised_in_the_block_snoozes() -> None:
    app = memory_app()
    async with app:
        handle = await app.queue("q").put(1)
        async with app.queue("q").consume() as tasks, await take(tasks):
            raise Snooze(60)
        assert (stored(app, handle)["status"], stored(app, handle)["attempt"]) == ("delayed", 0)


async def test_consumer_of_an_empty_queue_is_woken_by_the_first_put() -> None:
    app = memory_app(safety_scan_s=None)
    async with app, app.queue("q").consume() as tasks, trio.open_nursery() as nursery:

        async def put() -> None:
            await trio.sleep(5_000)
            await app.queue("q").put(trio.current_time())

        nursery.start_soon(put)
        async with await take(tasks) as task:
            assert trio.current_time() == task.payload


async def test_two_consumers_of_one_app_on_different_queues_are_both_served() -> None:
    """The second widens the one stream of the process; the first misses nothing meanwhile."""
    app = memory_app(safety_scan_s=None)
    async with app, app.queue("a").consume(prefetch=0) as of_a:
        async with app.queue("b").consume(prefetch=0) as of_b:
            for name, tasks in (("a", of_a), ("b", of_b), ("a", of_a)):
                await trio.sleep(100)
                await app.queue(name).put(name)
                async with await take(tasks) as task:
                    assert task.payload == name
        assert len(memory(app).feeds) == 1


async def test_task_that_this_process_claims_again_at_once_is_not_taken_for_a_lost_lease() -> None:
    """The new claim may be heard of before the answer to the settlement that made the task ready again."""
    app = memory_app(retry=Retry(max_attempts=2, first_s=0))
    async with app:
        handles = await app.queue("q").put_many(range(50))
        async with app.queue("q").consume(prefetch=3) as tasks:
            for _ in range(100):
                async with await take(tasks) as task:
                    await task.fail("again")
                    await trio.sleep(1)
        assert {stored(app, one)["attempt"] for one in handles} == {2}
        assert app.journal.counts["lease lost"] == 0
