"""Workers of one queue that know different handlers, on the real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from streamq.store import looking_ahead

if TYPE_CHECKING:
    from tests.integration.conftest import MakeApp


@pytest.mark.parametrize("slots", [1, 4])
async def test_worker_gets_past_the_tasks_of_another_and_hears_of_what_comes_before_its_look(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    monkeypatch.setattr(looking_ahead, "WINDOW", 3)
    monkeypatch.setattr(looking_ahead, "MOST_WINDOWS", 1)
    app, other = make_app(), make_app()
    ran: list[int] = []
    done = trio.Event()

    @app.task
    async def mine(n: int) -> None:
        ran.append(n)
        if n == 5:
            # In the middle of the look past the others: these stand before it.
            await app.put_many([mine.options(priority=9).new(n) for n in (100, 101)])
        if len(ran) == 22:
            done.set()

    @other.task
    async def theirs() -> None:
        raise AssertionError("nobody works for it here")

    for n in range(20):
        other.blocking.put_many([theirs.new() for _ in range(5)])
        app.blocking.put(mine.new(n))
    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda *, task_status: app.work({"default": slots}, task_status=task_status))
        with trio.fail_after(20):
            await done.wait()
        nursery.cancel_scope.cancel()
    assert sorted(ran) == [*range(20), 100, 101]
    assert app.blocking.counts()["default"] == {"ready": 100, "succeeded": 22}
