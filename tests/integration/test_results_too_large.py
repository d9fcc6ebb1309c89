"""Results that are too large to store: the attempt fails and says so, and nothing is left running."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from streamq import PayloadTooLarge, TaskFailed

if TYPE_CHECKING:
    from tests.integration.conftest import MakeApp

MOST, TOO_MUCH = 1_000, "x" * 2_000


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_result_of_a_handler_that_is_too_large_fails_its_task_at_once(make_app: MakeApp, kind: str) -> None:
    app = make_app(payload_limit_bytes=MOST)

    async def slowly() -> str:
        return TOO_MUCH

    def in_a_thread() -> str:
        return TOO_MUCH

    handler: Any = app.task(slowly if kind == "async" else in_a_thread)
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        handle = await handler.put()
        with pytest.raises(TaskFailed, match="PayloadTooLarge"):
            await handle.result(timeout_s=10)
        nursery.cancel_scope.cancel()
    stored = app.store.get(handle.id)
    assert stored is not None
    assert (stored["status"], stored["attempt"], len(stored["errors"])) == ("failed", 1, 1)
    assert "2" in stored["errors"][0]["message"]
    assert "result" not in stored


@pytest.mark.parametrize("door", ["trio", "blocking"])
async def test_result_of_a_holder_that_is_too_large_is_refused_and_the_task_is_still_held(
    make_app: MakeApp, door: str
) -> None:
    app = make_app(payload_limit_bytes=MOST)
    async with app:
        handle = await app.queue("q").put(1)
        if door == "trio":
            task = await app.queue("q").claim()
            assert task is not None
            with pytest.raises(PayloadTooLarge, match="result"):
                await task.succeed(TOO_MUCH)
            await task.succeed("less")
        else:
            held = app.blocking.queue("q").claim()
            assert held is not None
            with pytest.raises(PayloadTooLarge, match="result"):
                held.succeed(TOO_MUCH)
            held.succeed("less")
        assert await handle.result(timeout_s=10) == "less"


async def test_result_too_large_in_the_block_of_a_task_fails_the_attempt(make_app: MakeApp) -> None:
    app = make_app(payload_limit_bytes=MOST)
    async with app:
        handle = await app.queue("q").put(1, max_attempts=1)
        task = await app.queue("q").claim()
        assert task is not None
        async with task:
            await task.succeed(TOO_MUCH)
        with pytest.raises(TaskFailed, match="PayloadTooLarge"):
            await handle.result(timeout_s=10)
