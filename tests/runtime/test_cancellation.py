"""Cancellation at every step of the road: nothing stays in limbo.

A scripted run is repeated, each time cancelled one scheduler step later: first the worker alone, then the whole app. A
step is one turn of one trio task, so every checkpoint of every task of the runtime is met, at the moment at which it is
about to go on. The order of turns is drawn anew for each k from a seed, which a failure names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest
import trio
import trio.testing
from bson import ObjectId

from streamq import Retry, StreamQ, Task, Tasks
from streamq.bridge import InlineBridge
from streamq.core.document import STATUSES, TERMINAL
from streamq.store.memory import MemoryStore
from streamq.testing import trio_time

EVERY: Final = 1
"""Cancel at every step."""


class CancelAt(trio.abc.Instrument):
    """Cancels a scope at the k-th step counted from `begin`."""

    def __init__(self, k: int) -> None:
        self.steps = 0
        self.hit = False
        self._k = k
        self._scope: trio.CancelScope | None = None

    def begin(self, scope: trio.CancelScope) -> None:
        self._scope = scope

    def end(self) -> None:
        self._scope = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._scope is None or self.hit:
            return
        self.steps += 1
        if self.steps == self._k:
            self.hit = True
            self._scope.cancel()


class Run:
    """One scripted run on a store of its own."""

    def __init__(self, cancel: CancelAt) -> None:
        self.cancel = cancel
        self.store = MemoryStore(trio_time)
        self.began: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.acknowledged: list[ObjectId] = []
        self.withdrawn: list[ObjectId] = []

    def app(self) -> StreamQ:
        app = StreamQ.on(self.store, InlineBridge(), lease_s=30, safety_scan_s=None, retry=Retry(first_s=0))

        @app.task
        async def fine(name: str) -> str:
            with self._running(name):
                await trio.sleep(1)
            return name

        @app.task
        async def flaky(name: str) -> str:
            with self._running(name):
                if self.began[name] == 1:
                    raise ValueError("first")
            return name

        @app.task(retry=Retry(max_attempts=1))
        async def once(name: str) -> str:
            with self._running(name):
                await trio.sleep(1)
            return name

        self.fine, self.flaky, self.once = fine, flaky, once
        return app

    def _running(self, name: str) -> Any:
        return _Running(self, name)

    async def put(self, app: StreamQ, new: Any) -> None:
        """Put, and note what the caller knows afterwards."""
        try:
            await app.services().putter.put(new)
        except trio.Cancelled:
            self.withdrawn.append(new.id)
            raise
        self.acknowledged.append(new.id)

    async def produce(self, app: StreamQ) -> None:
        async with trio.open_nursery() as nursery:
            for new in (
                self.fine.new("fine"),
                self.flaky.new("flaky"),
                self.once.new("once"),
                self.fine.options(keep_s=0).new("gone"),
                self.fine.options(delay_s=3).new("late"),
                app.queue("bare").new("bare"),
                app.queue("bare").new("bare once", max_attempts=1),
            ):
                nursery.start_soon(self.put, app, new)

    async def consume(self, app: StreamQ, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with app.queue("bare").consume(prefetch=2) as tasks:
            task_status.started()
            await self.loop(tasks)

    async def loop(self, tasks: Tasks) -> None:
        task: Task
        async for task in tasks:
            async with task:
                with self._running(task.payload):
                    await trio.sleep(1)

    async def work(self, app: StreamQ) -> None:
        """Put, work and consume until all has ended."""
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: app.work(concurrency=2, task_status=task_status))
            await nursery.start(self.consume, app)
            await self.produce(app)
            await trio.sleep(20)
            nursery.cancel_scope.cancel()

    async def cancelled_worker(self) -> None:
        app = self.app()
        async with app:
            with trio.CancelScope() as scope:
                self.cancel.begin(scope)
                await self.work(app)
            self.cancel.end()
            self.check_nothing_in_limbo()
        self.check_nothing_open()
        await self.finish()

    async def cancelled_app(self) -> None:
        with trio.CancelScope() as scope:
            self.cancel.begin(scope)
            app = self.app()
            async with app:
                await self.work(app)
        self.cancel.end()
        self.check_nothing_open()
        self.check_nothing_in_limbo()
        await self.finish()

    def check_nothing_in_limbo(self) -> None:
        """At once, before any time passes: nothing is held any more, and only what ended or failed was counted."""
        stored = self.store.documents
        for id in self.acknowledged:
            assert id in stored or self.ended["gone"], "an acknowledged put was lost"
        for id in self.withdrawn:
            assert id not in stored, "a put whose caller was cancelled is stored"
        for document in stored.values():
            status, attempt, errors = document["status"], document["attempt"], len(document.get("errors", ()))
            assert status in STATUSES
            assert status != "running", "held by nobody"
            assert "claim_id" not in document
            assert attempt == errors + (status == "succeeded"), "an attempt was counted that did not end"

    def check_nothing_open(self) -> None:
        assert not self.store.feeds, "a stream was left open"
        assert not self.store.members, "a member's row was left behind"

    async def finish(self) -> None:
        """A fresh worker completes all."""
        app = self.app()
        async with app, trio.open_nursery() as nursery:
            await nursery.start(app.work)
            await nursery.start(self.consume, app)
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
        for document in self.store.documents.values():
            assert document["status"] in TERMINAL, document
        for name in ("once", "bare once"):
            assert self.began[name] <= 1, "a task of one attempt ran twice"
        for document in self.store.documents.values():
            name = document["payload"] if document["task"] is None else document["payload"]["name"]
            if document["status"] == "failed":
                assert name in ("once", "bare once")
                assert document["errors"][0]["type"] == "Stopped"
                assert not self.ended[name], "it had done its work and was failed"
            else:
                assert self.ended[name]


class _Running:
    """Counts a run that began and, unless it was cut short, that ended."""

    def __init__(self, run: Run, name: str) -> None:
        self._run = run
        self._name = name

    def __enter__(self) -> None:
        self._run.began[self._name] += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._run.ended[self._name] += kind is None


def drive(k: int, what: Callable[[Run], Any]) -> CancelAt:
    cancel = CancelAt(k)

    async def main() -> None:
        await what(Run(cancel))

    trio._core._run._r.seed(k)
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[cancel])
    return cancel


@pytest.mark.parametrize("what", [Run.cancelled_worker, Run.cancelled_app], ids=["worker", "app"])
def test_cancelling_at_any_step_leaves_nothing_in_limbo(
    what: Callable[[Run], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    whole = drive(0, what).steps
    assert whole > 100
    for k in range(1, whole + 1, EVERY):
        try:
            drive(k, what)
        except BaseException as error:
            error.add_note(f"cancelled at step {k} of {whole}")
            raise
