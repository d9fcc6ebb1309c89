"""Rules of retrying, as handlers and loops meet them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from streamq import Retry, RetryAfter, StreamQ, TaskFailed, TaskTimeout, current_task
from streamq.testing import memory_app


@asynccontextmanager
async def working(app: StreamQ) -> AsyncIterator[None]:
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        yield
        nursery.cancel_scope.cancel()


async def test_a_handler_is_not_tried_again_after_what_its_rule_excludes() -> None:
    app = memory_app()

    @app.task(retry=Retry(max_attempts=9, first_s=0, never=LookupError))
    async def look() -> None:
        raise ValueError if current_task().attempt < 3 else KeyError("gone")

    async with working(app):
        with pytest.raises(TaskFailed, match="KeyError") as caught:
            await (await look.put()).result()
    assert caught.value.error_type == "KeyError"


async def test_retry_after_counts_the_attempt_and_waits_exactly_so_long() -> None:
    app = memory_app(retry=Retry(max_attempts=2, first_s=1_000_000))
    began: list[float] = []

    @app.task
    async def busy() -> None:
        began.append(trio.current_time())
        raise RetryAfter(30) from ConnectionError("429")

    async with working(app):
        handle = await busy.put()
        with pytest.raises(TaskFailed, match="ConnectionError: 429"):
            await handle.result()
    assert began[1] - began[0] == pytest.approx(30, abs=0.002)


@pytest.mark.parametrize(("retry", "attempts"), [(Retry(never=TaskTimeout), 1), (Retry(max_attempts=3, first_s=0), 3)])
async def test_a_timeout_obeys_the_rule(retry: Retry, attempts: int) -> None:
    app = memory_app()
    begun = 0

    @app.task(timeout_s=5, retry=retry)
    async def slow() -> None:
        nonlocal begun
        begun += 1
        await trio.sleep(60)

    async with working(app):
        with pytest.raises(TaskFailed, match="TaskTimeout"):
            await (await slow.put()).result()
    assert begun == attempts


@pytest.mark.parametrize("by_hand", [True, False])
async def test_the_bare_loop_obeys_the_apps_rule(by_hand: bool) -> None:
    app = memory_app(retry=Retry(first_s=0, only=ConnectionError))
    attempts: list[int] = []
    async with app:
        handle = await app.queue("q").put("x")
        async with app.queue("q").consume() as tasks:
            async for task in tasks:
                attempts.append(task.info.attempt)
                error = ConnectionError() if len(attempts) < 3 else ValueError()
                async with task:
                    if not by_hand:
                        raise error
                    await task.fail(error)
                if len(attempts) == 3:
                    break
        assert await handle.status() == "failed"
    assert attempts == [1, 2, 3]
