"""Handlers in threads: what was left behind by timeouts costs the tasks after it nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import trio

from streamq import Retry
from streamq.testing import memory_app

ONCE = Retry(max_attempts=1)


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What a handler may hang on until the test ends."""
    event = threading.Event()
    yield event
    event.set()


async def test_handlers_in_threads_start_when_as_many_threads_as_slots_were_left_behind(never: threading.Event) -> None:
    """A thread cannot be ended: it must not count against those that come after it."""
    app = memory_app(safety_scan_s=None)

    @app.task(timeout_s=0.05, retry=ONCE)
    def hangs() -> None:
        never.wait()

    @app.task(retry=ONCE)
    def quick(number: int) -> int:
        return number

    with trio.fail_after(20):
        async with app, trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: app.work(concurrency=2, task_status=task_status))
            for handle in [await hangs.put() for _ in range(4)]:
                assert (await handle.wait())["status"] == "failed"
            assert app.journal.counts["thread left behind"] == 4
            assert [await handle.result() for handle in [await quick.put(number) for number in range(4)]] == [
                0,
                1,
                2,
                3,
            ]
            never.set()
            nursery.cancel_scope.cancel()
