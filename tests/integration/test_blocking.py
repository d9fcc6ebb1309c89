"""The queue for programs without trio, on a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from streamq import LeaseLost, OptionInvalid, Retry, RetryAfter, StreamQ, UsageError
from streamq.blocking import BlockingTask


@pytest.fixture
def app(uri: str, database: str) -> Iterator[StreamQ]:
    app = StreamQ(uri, database=database, retry=Retry(max_attempts=2, first_s=0))
    yield app
    app.close()


def claimed(app: StreamQ, **how: float) -> BlockingTask:
    task = app.blocking.queue("q").claim(**how)
    assert task is not None
    return task


def status(app: StreamQ) -> dict[str, int]:
    return dict(app.store.counts().get("q", {}))


def test_claim_of_an_empty_queue_is_none_at_once(app: StreamQ) -> None:
    began_at = time.monotonic()
    assert app.blocking.queue("q").claim() is None
    assert time.monotonic() - began_at < 1


def test_tasks_are_claimed_by_priority_and_then_in_order(app: StreamQ) -> None:
    queue = app.blocking.queue("q")
    queue.put_many(["a", "b"])
    queue.put("first", priority=5)
    assert [claimed(app).payload for _ in range(3)] == ["first", "a", "b"]
    assert queue.claim() is None


def test_each_way_to_settle_ends_the_attempt_in_its_way(app: StreamQ) -> None:
    app.blocking.queue("q").put("x")
    task = claimed(app)
    task.release()
    task = claimed(app)
    assert task.info.attempt == 1
    task.fail("no luck")
    task = claimed(app)
    assert task.info.attempt == 2
    task.snooze(3_600)
    assert status(app) == {"delayed": 1}
    app.blocking.queue("q").put("y")
    claimed(app).succeed({"rows": 3})
    app.blocking.queue("q").put("z")
    claimed(app).fail(ValueError("never"), retry=False)
    assert status(app) == {"delayed": 1, "succeeded": 1, "failed": 1}


def test_block_settles_by_how_it_is_left(app: StreamQ) -> None:
    queue = app.blocking.queue("q")
    queue.put("x")
    with claimed(app):
        raise ValueError("once")
    with claimed(app) as task:
        assert task.info.attempt == 2
    assert status(app) == {"succeeded": 1}
    queue.put("y")
    with pytest.raises(KeyboardInterrupt), claimed(app):
        raise KeyboardInterrupt
    assert status(app) == {"succeeded": 1, "ready": 1}
    assert claimed(app).info.attempt == 1


def test_task_is_settled_once(app: StreamQ) -> None:
    app.blocking.queue("q").put("x")
    with claimed(app) as task:
        task.succeed()
        with pytest.raises(UsageError, match="settled here already"):
            task.fail("too late")
    assert status(app) == {"succeeded": 1}


def test_waiting_claim_is_woken_by_a_put(app: StreamQ, uri: str, database: str) -> None:
    got: list[tuple[str, float]] = []

    def wait() -> None:
        task = app.blocking.queue("q").claim(wait_s=20)
        assert task is not None
        got.append((task.payload, time.monotonic()))
        task.succeed()

    other = StreamQ(uri, database=database)
    waiter = threading.Thread(target=wait)
    waiter.start()
    try:
        _until(lambda: list(app.client[database].tasks.find({"kind": "member"})))  # it watches
        put_at = time.monotonic()
        other.blocking.queue("q").put("woken")
    finally:
        waiter.join(timeout=30)
        other.close()
    assert [payload for payload, _ in got] == ["woken"]
    assert got[0][1] - put_at < 1


def _until(condition: object, within_s: float = 10.0) -> None:
    until = time.monotonic() + within_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.01)


def test_waiting_claim_gives_up_in_time_and_leaves_no_row(app: StreamQ, database: str) -> None:
    began_at = time.monotonic()
    assert app.blocking.queue("q").claim(wait_s=0.6) is None
    assert 0.55 < time.monotonic() - began_at < 1.5
    assert app.client[database].tasks.count_documents({}) == 0


def test_waiting_claim_takes_a_task_that_becomes_due_without_any_worker(app: StreamQ) -> None:
    app.blocking.queue("q").put("late", delay_s=0.4)
    began_at = time.monotonic()
    task = claimed(app, wait_s=10)
    assert 0.39 < time.monotonic() - began_at < 1.5
    assert task.payload == "late"


def test_stale_holder_is_refused_everything_and_changes_nothing(app: StreamQ) -> None:
    app.blocking.queue("q").put("x")
    stale = claimed(app, lease_s=1)
    fresh = claimed(app, wait_s=10)  # taken back once the lease has ended
    assert fresh.info.attempt == 2
    acts: list[Callable[[], object]] = [
        *(stale.extend, stale.succeed, stale.release, stale.cancel, lambda: stale.progress(1)),
        *(lambda: stale.fail("no"), lambda: stale.snooze(5)),
    ]
    for act in acts:
        with pytest.raises(LeaseLost):
            act()
    fresh.succeed("mine")
    assert status(app) == {"succeeded": 1}


def test_extended_lease_is_not_taken_back(app: StreamQ) -> None:
    app.blocking.queue("q").put("x")
    task = claimed(app, lease_s=1)
    task.extend(60)
    assert app.blocking.queue("q").claim(wait_s=1.5) is None
    task.succeed()
    assert status(app) == {"succeeded": 1}


def test_handler_task_is_put_without_trio(app: StreamQ) -> None:
    @app.task(queue="q")
    async def measure(name: str, *, width: int = 1) -> None: ...

    reply = app.blocking.put(measure.new("a", width=3))
    task = claimed(app)
    assert task.info.id == reply.id
    assert task.info.task == "measure"
    assert task.payload == {"name": "a", "width": 3}


@pytest.mark.parametrize("wait_s", [-1, float("nan"), True, "1"])
def test_wait_that_cannot_be_is_refused(app: StreamQ, wait_s: float) -> None:
    with pytest.raises(OptionInvalid, match="wait_s"):
        app.blocking.queue("q").claim(wait_s=wait_s)


def test_app_that_many_threads_use_for_the_first_time_connects_once(uri: str, database: str) -> None:
    for _ in range(20):
        app = StreamQ(uri, database=database)
        together = threading.Barrier(8)
        stores: list[object] = []

        def use(app: StreamQ = app, together: threading.Barrier = together, stores: list[object] = stores) -> None:
            together.wait(timeout=10)
            stores.append(app.store)

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        app.close()
        assert len(stores) == 8
        assert len(set(map(id, stores))) == 1


def test_a_failure_obeys_the_apps_rule_of_retrying(uri: str, database: str) -> None:
    app = StreamQ(uri, database=database, retry=Retry.table([0], max_attempts=9, never=LookupError))
    try:
        app.blocking.queue("q").put("x")
        claimed(app).fail(ValueError())
        claimed(app).fail(RetryAfter(0))
        task = claimed(app)
        assert task.info.attempt == 3
        with task:
            raise KeyError("gone")
        assert status(app) == {"failed": 1}
    finally:
        app.close()


def test_task_of_a_handler_is_tried_again_by_its_rule(app: StreamQ) -> None:
    @app.task(queue="q", retry=Retry.constant(3_600, never=ValueError))
    def known() -> None: ...

    app.blocking.put_many([known.new(), known.new(), known.new()])
    claimed(app).fail(ValueError("bad"))
    with claimed(app):
        raise ValueError("bad")
    claimed(app).fail(OSError("gone"))
    assert status(app) == {"failed": 2, "delayed": 1}
