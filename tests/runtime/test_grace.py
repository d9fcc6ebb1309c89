"""Stopping in good order: what runs may end, nothing else begins."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest
import trio

from streamq import OptionInvalid, Retry, StreamQ
from streamq.core.document import TaskDocument
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app


def stored(app: StreamQ) -> list[TaskDocument]:
    return list(cast(MemoryStore, app.store).documents.values())


class Scene:
    """An app whose handler runs for `seconds`, and a way to work and stop."""

    def __init__(self, seconds: float = 10, **options: Any) -> None:
        self.app = memory_app(**options)
        self.began = 0

        @self.app.task
        async def job() -> str:
            self.began += 1
            await trio.sleep(seconds)
            return "done"

        self.job = job

    async def stopped_after(self, seconds: float, grace_s: float | None, tasks: int = 6, slots: int = 2) -> float:
        """Work for `seconds`, ask to stop; return how long that took."""
        stop = trio.Event()
        async with self.app, trio.open_nursery() as nursery:
            for _ in range(tasks):
                await self.job.put()
            await nursery.start(
                lambda task_status: self.app.work(
                    concurrency=slots, stop=stop, grace_s=grace_s, task_status=task_status
                )
            )
            await trio.sleep(seconds)
            stop.set()
            asked_at = trio.current_time()
            while nursery.child_tasks:  # noqa: ASYNC110 - virtual time
                await trio.sleep(0.01)
            return trio.current_time() - asked_at


@pytest.mark.parametrize("grace_s", [None, 60])
async def test_what_runs_may_end_and_nothing_else_begins(grace_s: float | None) -> None:
    scene = Scene(seconds=10)
    assert await scene.stopped_after(4, grace_s) == pytest.approx(6, abs=0.1)
    assert [(one["status"], one["attempt"]) for one in stored(scene.app)] == [("succeeded", 1)] * 2 + [("ready", 0)] * 4
    assert scene.began == 2


async def test_what_has_not_ended_within_the_grace_is_given_back_uncounted() -> None:
    scene = Scene(seconds=10)
    assert await scene.stopped_after(4, 3) == pytest.approx(3, abs=0.1)
    assert {(one["status"], one["attempt"]) for one in stored(scene.app)} == {("ready", 0)}
    assert scene.app.journal.counts["grace is over"] == 1


async def test_a_grace_of_nothing_stops_at_once() -> None:
    scene = Scene(seconds=10)
    assert await scene.stopped_after(4, 0) == pytest.approx(0, abs=0.1)
    assert {one["status"] for one in stored(scene.app)} == {"ready"}


async def test_what_was_claimed_ahead_goes_back_and_does_not_begin() -> None:
    scene = Scene(seconds=0.001)
    assert await scene.stopped_after(0.0205, None, tasks=500) < 1
    ended = [one for one in stored(scene.app) if one["status"] == "succeeded"]
    assert len(ended) == scene.began < 500
    assert {(one["status"], one["attempt"]) for one in stored(scene.app) if one not in ended} == {("ready", 0)}


async def test_leases_are_extended_during_the_grace() -> None:
    scene = Scene(seconds=600, lease_s=2)
    await scene.stopped_after(1, None, tasks=1)
    assert [(one["status"], one["attempt"]) for one in stored(scene.app)] == [("succeeded", 1)]


async def test_a_failure_during_the_grace_is_settled_as_ever() -> None:
    app = memory_app(retry=Retry(max_attempts=1))

    @app.task
    async def broken() -> None:
        await trio.sleep(5)
        raise ValueError

    stop = trio.Event()
    async with app, trio.open_nursery() as nursery:
        await broken.put()
        await nursery.start(lambda task_status: app.work(stop=stop, task_status=task_status))
        await trio.sleep(1)
        stop.set()
    assert [one["status"] for one in stored(app)] == ["failed"]


async def test_a_worker_that_is_asked_to_stop_before_it_works_begins_nothing() -> None:
    scene = Scene()
    stop = trio.Event()
    stop.set()
    async with scene.app:
        await scene.job.put()
        await scene.app.work(stop=stop)
    assert scene.began == 0
    assert [(one["status"], one["attempt"]) for one in stored(scene.app)] == [("ready", 0)]


async def test_what_a_worker_does_is_logged_when_it_stops(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamq")
    await Scene(seconds=10).stopped_after(4, 3)
    said = [record.message for record in caplog.records if record.message.startswith(("worker stop", "grace"))]
    assert said == [
        "worker stopping running=2 grace_s=3.0",
        "grace is over running=2",
        "worker stopped queues=['default']",
    ]


@pytest.mark.parametrize(
    ("options", "named"),
    [({"grace_s": 3}, "grace_s"), ({"stop": 3}, "stop"), ({"stop": "event", "grace_s": -1}, "grace_s")],
)
async def test_what_is_no_grace_is_refused(options: dict[str, Any], named: str) -> None:
    scene = Scene()
    if options.get("stop") == "event":
        options = options | {"stop": trio.Event()}
    async with scene.app:
        with pytest.raises(OptionInvalid) as caught:
            await scene.app.work(**options)
    assert caught.value.option == named
