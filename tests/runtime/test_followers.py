"""Tasks that wait for others, end to end in memory: the scheduler sees to them as soon as it hears."""

from __future__ import annotations

import pytest
import trio

from streamq import TaskFailed
from streamq.testing import memory_app
from tests.runtime.test_road import working


async def test_a_chain_runs_in_its_order_without_a_timer() -> None:
    app = memory_app()
    ran: list[int] = []

    @app.task
    async def note(number: int) -> None:
        ran.append(number)

    async with working(app):
        handle = await note.put(0)
        for number in range(1, 5):
            handle = await note.options(after=[handle]).put(number)
        began_at = trio.current_time()
        await handle.result(timeout_s=5)
        assert trio.current_time() - began_at < 0.5
    assert ran == [0, 1, 2, 3, 4]


async def test_whoever_waits_for_a_child_hears_that_its_parent_failed() -> None:
    app = memory_app()

    @app.task
    async def fail() -> None:
        raise ValueError("no")

    @app.task
    async def follow() -> None:
        raise AssertionError("it never runs")

    async with working(app):
        parent = await fail.options(max_attempts=1).put()
        child = await follow.options(after=[parent]).put()
        grandchild = await follow.options(after_any=[child], on_parent_failure="fail").put()
        with pytest.raises(TaskFailed, match=f"cancelled: ParentFailed.*{parent.id}"):
            await child.result(timeout_s=5)
        with pytest.raises(TaskFailed, match="failed: ParentFailed"):
            await grandchild.result(timeout_s=5)


async def test_a_group_runs_in_order_however_many_slots_there_are() -> None:
    app = memory_app()
    ran: list[int] = []

    @app.task
    async def note(number: int) -> None:
        await trio.sleep(1 / (number + 1))  # later ones are quicker: side by side they would overtake
        ran.append(number)

    async with working(app, slots=8):
        tasks = [note.options(group="g").new(number) for number in range(6)]
        handles = await app.put_many(tasks)
        await handles[-1].result(timeout_s=60)
    assert ran == list(range(6))
