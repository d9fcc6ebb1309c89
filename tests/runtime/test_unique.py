"""Unique keys through the app, under trio: handles, batches, wakes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple, cast

import pytest
import trio
import trio.testing

from streamq import Handle, StreamQ, TaskGone, UniqueConflict
from streamq.bridge import InlineBridge
from streamq.core.new_task import NewTask
from streamq.store.memory import MemoryStore
from streamq.testing import trio_time

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def app_in_memory() -> tuple[StreamQ, MemoryStore]:
    store = MemoryStore(trio_time)
    return StreamQ.on(store, InlineBridge()), store


async def test_a_second_put_gives_a_handle_of_the_first_task_and_its_result() -> None:
    app, _ = app_in_memory()

    @app.task
    async def double(n: int) -> int:
        await trio.sleep(1)
        return 2 * n

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        first = await double.options(unique="n").put(1)
        second = await double.options(unique="n").put(2)
        assert (first.created, second.created, second.outcome) == (True, False, "existing")
        assert second.id == first.id
        assert await second.result() == 2
        third = await double.options(unique="n").put(3)
        assert third.created
        nursery.cancel_scope.cancel()


async def test_a_put_that_raises_names_the_key_and_the_task_that_has_it() -> None:
    app, store = app_in_memory()
    async with app:
        queue = app.queue("q")
        first = await queue.put(1, unique=("a", 1))
        with pytest.raises(UniqueConflict, match=r"unique=\('a', 1\) is taken in queue 'q'") as caught:
            await queue.put(2, unique=("a", 1), on_conflict="raise")
        assert (caught.value.key, caught.value.queue, caught.value.task_id) == (("a", 1), "q", first.id)
    assert len(store.documents) == 1


async def test_put_many_reports_each_conflict_on_its_own_handle() -> None:
    app, store = app_in_memory()
    async with app:
        queue = app.queue("q")
        new = [
            queue.new("a", unique="k"),
            queue.new("b"),
            queue.new("c", unique="k", on_conflict="raise"),
            queue.new("d", unique="k", on_conflict="replace"),
            queue.new("e", unique="k", unique_for_s=5),
        ]
        handles = await app.put_many(new)
        assert [one.outcome for one in handles] == ["created", "created", "refused", "replaced", "created"]
        assert [one.id for one in handles] == [new[0].id, new[1].id, new[0].id, new[0].id, new[4].id]
        same = await queue.put_many(["x", "y"], unique="other")
        assert [one.created for one in same] == [True, False]
    assert store.documents[new[0].id]["payload"] == "d"


async def test_a_conflict_in_a_shared_batch_is_told_to_its_own_caller_alone() -> None:
    app, _ = app_in_memory()
    heard: dict[str, Any] = {}

    async with app:
        queue = app.queue("q")
        first = await queue.put("first", unique="k")

        async def put(name: str, **options: Any) -> None:
            try:
                heard[name] = await queue.put(name, **options)
            except UniqueConflict as error:
                heard[name] = error

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, "plain")
            nursery.start_soon(lambda: put("twin", unique="k", on_conflict="raise"))
            nursery.start_soon(put, "other")
    twin = heard.pop("twin")
    assert isinstance(twin, UniqueConflict)
    assert twin.task_id == first.id
    assert all(isinstance(one, Handle) and one.created for one in heard.values())


async def test_a_debounced_task_runs_once_with_what_was_put_last() -> None:
    app, _ = app_in_memory()
    ran: list[tuple[float, str]] = []

    @app.task
    async def index(text: str) -> None:
        ran.append((trio.current_time() - began, text))

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        began = trio.current_time()
        for text in ("a", "b", "c"):
            handle = await index.options(unique="page", delay_s=10, on_conflict="replace").put(text)
            await trio.sleep(4)
        assert handle.replaced
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    ((at_s, text),) = ran
    assert text == "c"
    assert at_s == pytest.approx(18, abs=0.1)


async def test_a_replaced_task_that_is_due_earlier_starts_then() -> None:
    app, _ = app_in_memory()
    ran: list[float] = []

    @app.task
    async def job() -> None:
        ran.append(trio.current_time() - began)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        began = trio.current_time()
        await job.options(unique="k", delay_s=1_000).put()
        await trio.sleep(1)
        await job.options(unique="k", delay_s=5, on_conflict="replace").put()
        await trio.sleep(10)
        await job.options(unique="k", delay_s=1_000).put()
        await job.options(unique="k", on_conflict="replace").put()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert ran == [pytest.approx(6, abs=0.1), pytest.approx(11, abs=0.1)]


async def test_the_handle_of_a_key_whose_task_is_gone_says_so() -> None:
    app, store = app_in_memory()
    async with app:
        first = await app.queue("q").put(1, unique="k", unique_for_s=math.inf)
        del store.documents[first.id]
        again = await app.queue("q").put(2, unique="k", unique_for_s=60)
        assert (again.created, again.id) == (False, first.id)
        with pytest.raises(TaskGone):
            await again.status()


async def test_consumers_are_not_told_of_tasks_that_were_not_stored() -> None:
    told: list[NewTask] = []
    app, _ = app_in_memory()
    async with app:
        app.services().putter._stored = told.extend
        first = app.queue("q").new(1, unique="k")
        await app.put_many([first, app.queue("q").new(2, unique="k")])
        await app.queue("q").put(3, unique="k")
        await app.queue("q").put(3, unique="k", unique_for_s=5)
    assert [one.payload for one in told] == [1, 3]


async def test_a_put_that_outlives_its_task_does_not_hold_up_the_puts_of_others() -> None:
    """It takes a transaction of its own: the batch of the others goes beside it."""
    gate = trio.Event()

    class Slow(InlineBridge):
        async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
            first = cast(Any, args)[0] if args else None
            if isinstance(first, list) and first and first[0].options.unique_for_s is not None:
                await gate.wait()
            return await super().call(function, *args)

    app = StreamQ.on(MemoryStore(trio_time), Slow())
    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: app.queue("q").put(1, unique="k", unique_for_s=5))
        await trio.testing.wait_all_tasks_blocked()
        assert (await app.queue("q").put(2)).created
        gate.set()
