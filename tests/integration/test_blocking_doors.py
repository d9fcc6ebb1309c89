"""The blocking door: claims of many, pop, the loop, results."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from bson import ObjectId

from streamq import (
    LeaseLost,
    OptionInvalid,
    ResultTimeout,
    Retry,
    StreamQ,
    TaskFailed,
    TaskGone,
    UsageError,
)
from streamq.blocking import BlockingTask
from tests.integration.conftest import MakeApp
from tests.integration.test_app import heard_client


@pytest.fixture
def app(uri: str, database: str) -> Iterator[StreamQ]:
    app = StreamQ(uri, database=database, retry=Retry(max_attempts=2, first_s=0))
    yield app
    app.close()


def statuses(app: StreamQ) -> dict[str, int]:
    return dict(app.store.counts().get("q", {}))


def watches(app: StreamQ, database: str) -> bool:
    return app.client[database].tasks.count_documents({"kind": "member"}) > 0


def until(condition: Any, within_s: float = 10.0) -> None:
    ends_at = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.01)


def test_claim_many_takes_up_to_n_in_order(app: StreamQ) -> None:
    queue = app.blocking.queue("q")
    queue.put_many(range(5))
    assert [task.payload for task in queue.claim_many(3)] == [0, 1, 2]
    assert [task.payload for task in queue.claim_many(3, wait_s=5)] == [3, 4]
    assert queue.claim_many(3) == []


def test_pop_hands_out_what_is_stored_as_succeeded(app: StreamQ) -> None:
    queue = app.blocking.queue("q")
    queue.put("x")
    task = queue.pop()
    assert task is not None
    assert task.payload == "x"
    assert statuses(app) == {"succeeded": 1}
    with pytest.raises(UsageError, match="settled here already"):
        task.fail("no")
    assert queue.pop() is None


def test_loop_takes_all_and_ends_when_there_is_no_more(app: StreamQ) -> None:
    queue = app.blocking.queue("q")
    queue.put_many(range(5))
    seen = []
    for task in queue.consume(wait_s=0.1):
        with task:
            seen.append(task.payload)
    assert seen == list(range(5))
    assert statuses(app) == {"succeeded": 5}


def test_break_gives_back_the_task_that_was_not_settled(app: StreamQ) -> None:
    queue = app.blocking.queue("q")
    queue.put_many(range(3))
    for task in queue.consume():
        assert task.payload == 0
        break
    assert statuses(app) == {"ready": 3}
    assert task.info.attempt == 1
    again = queue.claim()
    assert again is not None
    assert (again.payload, again.info.attempt) == (0, 1)


def test_error_out_of_the_loop_gives_back_the_task_and_comes_out(app: StreamQ, database: str) -> None:
    queue = app.blocking.queue("q")
    queue.put_many(range(3))

    def loop() -> None:
        for _ in queue.consume():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert statuses(app) == {"ready": 3}
    assert not watches(app, database)


def test_loop_on_an_empty_queue_is_woken_by_the_first_put(app: StreamQ, uri: str, database: str) -> None:
    got: list[tuple[Any, float]] = []

    def loop() -> None:
        for task in app.blocking.queue("q").consume(wait_s=20):
            with task:
                got.append((task.payload, time.monotonic()))
            if task.payload == 2:
                break

    other = StreamQ(uri, database=database)
    thread = threading.Thread(target=loop)
    thread.start()
    try:
        until(lambda: watches(app, database))
        for number in range(3):
            put_at = time.monotonic()
            other.blocking.queue("q").put(number)
            until(lambda number=number: len(got) > number)
            assert got[-1][1] - put_at < 1
    finally:
        thread.join(timeout=30)
        other.close()
    assert [payload for payload, _ in got] == [0, 1, 2]
    assert not watches(app, database)


def test_racing_claims_deliver_each_task_once(app: StreamQ) -> None:
    queue = app.blocking.queue("q")
    queue.put_many(range(60))
    seen: list[Any] = []

    def hand() -> None:
        while (task := queue.claim(wait_s=0.3)) is not None:
            with task:
                seen.append(task.payload)

    hands = [threading.Thread(target=hand) for _ in range(4)]
    for one in hands:
        one.start()
    for one in hands:
        one.join(timeout=30)
    assert Counter(seen) == Counter(range(60))
    assert statuses(app) == {"succeeded": 60}


def test_stale_claim_of_many_changes_nothing(app: StreamQ, database: str) -> None:
    queue = app.blocking.queue("q")
    queue.put("x")
    (stale,) = queue.claim_many(2, lease_s=1)
    fresh = queue.claim(wait_s=10)
    assert fresh is not None
    before = app.client[database].tasks.find_one({})
    for act in (stale.extend, stale.succeed):
        with pytest.raises(LeaseLost):
            act()
    stale.give_back()
    assert app.client[database].tasks.find_one({}) == before


# --- results -------------------------------------------------------------------------------------------------------


class Size(msgspec.Struct):
    width: int


def settle_soon(task: BlockingTask, result: Any = None, error: str | None = None) -> threading.Thread:
    def settle() -> None:
        time.sleep(0.3)
        if error is None:
            task.succeed(result)
        else:
            task.fail(error, retry=False)

    thread = threading.Thread(target=settle)
    thread.start()
    return thread


def test_result_is_told_when_the_task_ends(app: StreamQ, database: str) -> None:
    queue = app.blocking.queue("q")
    reply = queue.put("x")
    task = queue.claim()
    assert task is not None
    settling = settle_soon(task, {"rows": 3})
    assert app.blocking.result(reply.id, timeout_s=20) == {"rows": 3}
    settling.join()
    assert not watches(app, database)


def test_result_of_a_declared_handler_comes_typed(app: StreamQ) -> None:
    @app.task(queue="q")
    def measure() -> Size:
        return Size(0)

    reply = app.blocking.put(measure.new())
    with_result = app.blocking.queue("q").claim()
    assert with_result is not None
    with_result.succeed({"width": 7})
    assert app.blocking.result(str(reply.id)) == Size(7)


def test_result_of_a_failed_task_raises_its_error(app: StreamQ) -> None:
    queue = app.blocking.queue("q")
    reply = queue.put("x")
    task = queue.claim()
    assert task is not None
    settling = settle_soon(task, error="no luck")
    with pytest.raises(TaskFailed, match="no luck"):
        app.blocking.result(reply.id, timeout_s=20)
    settling.join()
    assert app.blocking.wait(reply.id)["status"] == "failed"
    assert app.blocking.status(reply.id) == "failed"


def test_result_that_does_not_come_in_time_says_how_the_task_stands(app: StreamQ, database: str) -> None:
    reply = app.blocking.queue("q").put("x")
    with pytest.raises(ResultTimeout, match="it is ready"):
        app.blocking.result(reply.id, timeout_s=0.2)
    assert not watches(app, database)


def test_result_of_what_is_not_there_or_not_kept_is_refused(app: StreamQ) -> None:
    with pytest.raises(TaskGone):
        app.blocking.result(ObjectId())
    with pytest.raises(TaskGone):
        app.blocking.status(ObjectId())
    reply = app.blocking.queue("q").put("x", keep_s=0)
    with pytest.raises(UsageError, match="keep_s=0"):
        app.blocking.wait(reply.id)
    with pytest.raises(OptionInvalid, match="id"):
        app.blocking.wait("nonsense")


# --- leases and pauses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "expected"), [(None, [90, 30]), (10, [10, 10])], ids=["own", "given"])
def test_claimed_task_has_the_lease_of_its_handler_unless_the_caller_gives_one(
    app: StreamQ, database: str, given: float | None, expected: list[float]
) -> None:
    @app.task(queue="q", lease_s=90)
    def slow() -> None: ...

    app.blocking.put_many([slow.new(), app.queue("q").new("bare")])
    tasks = app.blocking.queue("q").claim_many(2, lease_s=given)
    rows = app.client[database].tasks.find({"status": "running"}).sort("seq", 1)
    assert [round((row["lease_until"] - row["started_at"]).total_seconds()) for row in rows] == expected
    assert [task.lease_s for task in tasks] == expected


def test_claim_asks_for_a_pause_together_with_the_head_of_its_queue(uri: str, database: str) -> None:
    with heard_client(uri) as (client, commands):
        app = StreamQ(client=client, database=database)
        queue = app.blocking.queue("q")
        queue.put_many(range(3))

        def sent(act: Callable[[], Any]) -> list[str]:
            begun = len(commands.sent)
            act()
            return [name for name, _ in commands.sent[begun:]]

        assert sent(queue.claim) == ["aggregate", "update"]
        assert sent(queue.pop) == ["aggregate", "update", "update"]
        queue.pause()
        assert sent(queue.claim) == ["aggregate"]
        assert statuses(app) == {"ready": 1, "running": 1, "succeeded": 1}
        queue.resume()
        assert sent(lambda: queue.claim_many(5)) == ["aggregate", "update"]


def test_ready_tasks_that_no_worker_claims_are_told_without_trio(make_app: MakeApp) -> None:
    app = make_app()

    @app.task(queue="images")
    def resize() -> None: ...

    app.blocking.put_many([resize.new() for _ in range(2)])
    (left,) = app.blocking.unclaimed()
    assert (left.queue, left.task, left.count) == ("images", "resize", 2)


def test_waiting_claim_tells_of_the_shortest_lease_that_it_may_take(app: StreamQ) -> None:
    """Who takes leases back must know how soon one may end."""

    @app.task(queue="q", lease_s=5)
    def quick() -> None: ...

    assert app.blocking.queue("q").claimer().ear().member.lease_s == 5
    assert app.blocking.queue("q").claimer(60).ear().member.lease_s == 60
