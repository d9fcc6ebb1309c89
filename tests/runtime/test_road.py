"""The road of a task, end to end in memory: put, run, settle, tell; and every way an attempt can end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, TypeVarTuple, cast

import msgspec
import pytest
import trio
import trio.testing
from bson import ObjectId

from streamq import (
    Handle,
    ResultTimeout,
    Retry,
    Snooze,
    StreamQ,
    TaskFailed,
    TaskGone,
    UsageError,
    current_task,
)
from streamq.bridge import InlineBridge
from streamq.core.document import TaskDocument
from streamq.core.rendezvous import stand_by_s
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NO_WAIT = Retry(max_attempts=3, first_s=0)


class Size(msgspec.Struct, frozen=True):
    width: int
    name: str


@asynccontextmanager
async def working(app: StreamQ, slots: int = 4) -> AsyncIterator[None]:
    """Enter the app and let it work on all its queues for the body of the block."""
    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=slots, task_status=task_status))
        yield
        nursery.cancel_scope.cancel()


def stored(app: StreamQ, handle: Handle[Any]) -> TaskDocument:
    return cast(MemoryStore, app.store).documents[handle.id]


# --- the straight road -----------------------------------------------------------------------------------------


async def test_task_runs_with_its_arguments_and_its_result_comes_back_typed() -> None:
    app = memory_app()

    @app.task
    async def measure(name: str, *, width: int = 1) -> Size:
        return Size(width, name)

    async with working(app):
        handle = await measure.put("a.png", width=640)
        assert await handle.result(timeout_s=5) == Size(640, "a.png")
    assert stored(app, handle)["status"] == "succeeded"
    assert stored(app, handle)["attempt"] == 1


async def test_task_put_before_any_worker_runs_once_one_comes() -> None:
    app = memory_app()
    ran: list[int] = []

    @app.task
    async def note(number: int) -> None:
        ran.append(number)

    async with app:
        handles = [await note.put(number) for number in range(3)]
    async with working(app, slots=1):
        for handle in handles:
            await handle.result(timeout_s=5)
    assert ran == [0, 1, 2]


async def test_own_put_reaches_the_worker_without_any_time_passing() -> None:
    app = memory_app()

    @app.task
    async def nothing() -> float:
        return trio.current_time()

    async with working(app):
        put_at = trio.current_time()
        assert await (await nothing.put()).result(timeout_s=5) == put_at


async def test_put_of_another_process_wakes_an_idle_worker_by_the_stream() -> None:
    here = memory_app(safety_scan_s=None)
    elsewhere = StreamQ.on(here.store, here._bridge)  # type: ignore[arg-type]

    @here.task
    async def when() -> float:
        return trio.current_time()

    @elsewhere.task(name="when")
    async def when_elsewhere() -> float:
        raise AssertionError("never run: the other app works")

    async with working(here), elsewhere:
        await trio.sleep(1_000)
        put_at = trio.current_time()
        assert await (await when_elsewhere.put()).result(timeout_s=5) == put_at


async def test_higher_priority_runs_first_then_the_order_of_the_puts() -> None:
    app = memory_app()
    ran: list[str] = []

    @app.task
    async def note(name: str) -> None:
        ran.append(name)

    async with app:
        for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)):
            await note.options(priority=priority).put(name)
    async with working(app, slots=1):
        with trio.fail_after(5):
            while len(ran) < 5:
                await trio.testing.wait_all_tasks_blocked()
    assert ran == ["b", "d", "a", "c", "e"]


async def test_current_task_tells_the_handler_about_itself() -> None:
    app = memory_app()

    @app.task
    async def who() -> list[object]:
        me = current_task()
        return [me.id, me.attempt, me.queue, me.headers["trace"]]

    async with working(app):
        handle = await who.options(headers={"trace": "t1"}).put()
        assert await handle.result(timeout_s=5) == [handle.id, 1, "default", "t1"]
    with pytest.raises(UsageError):
        current_task()


async def test_handler_names_unknown_here_are_left_alone() -> None:
    app = memory_app()
    other = StreamQ.on(app.store, app._bridge)  # type: ignore[arg-type]
    ran: list[str] = []

    @app.task
    async def known(name: str) -> None:
        ran.append(name)

    @other.task
    async def unknown(name: str) -> None:
        ran.append(name)

    async with other:
        first = await unknown.put("x")
        async with working(app):
            second = await unknown.put("y")
            await (await known.put("z")).result(timeout_s=5)
            await trio.sleep(100)
    assert ran == ["z"]
    assert [stored(app, one)["status"] for one in (first, second)] == ["ready", "ready"]
    assert [stored(app, one)["attempt"] for one in (first, second)] == [0, 0]


async def test_task_with_keep_s_zero_is_gone_after_its_success_and_its_result_is_refused() -> None:
    app = memory_app()
    ran = trio.Event()

    @app.task(keep_s=0)
    async def forget() -> None:
        ran.set()

    async with working(app):
        handle = await forget.put()
        with pytest.raises(UsageError, match="keep_s=0"):
            await handle.result()
        await ran.wait()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(TaskGone):
            await handle.status()


# --- failing ---------------------------------------------------------------------------------------------------


async def test_failed_attempt_is_retried_after_exactly_the_backoff() -> None:
    app = memory_app()
    began: list[float] = []

    @app.task(retry=Retry(max_attempts=4, first_s=10, factor=3, jitter=False))
    async def flaky() -> str:
        began.append(trio.current_time())
        if len(began) < 4:
            raise ValueError("not yet")
        return "at last"

    async with working(app):
        assert await (await flaky.put()).result() == "at last"
    waits = [later - sooner for sooner, later in itertools.pairwise(began)]
    assert waits == pytest.approx([10, 30, 90], abs=0.002)  # dates hold milliseconds


async def test_last_failed_attempt_is_told_with_its_error() -> None:
    app = memory_app(retry=NO_WAIT)

    @app.task
    async def broken() -> None:
        raise LookupError(f"no {current_task().attempt}")

    async with working(app):
        handle = await broken.put()
        with pytest.raises(TaskFailed, match="LookupError: no 3") as caught:
            await handle.result(timeout_s=5)
    assert caught.value.error_type == "LookupError"
    assert caught.value.status == "failed"
    assert [error["message"] for error in stored(app, handle)["errors"]] == ["no 1", "no 2", "no 3"]
    assert "raise LookupError" in stored(app, handle)["errors"][-1]["traceback"]


class OddBase(BaseException):
    """What a library may raise past every `except Exception`."""


def group_of_plain_errors() -> BaseException:
    return ExceptionGroup("two", [ValueError("a"), KeyError("b")])


def group_with_an_exit() -> BaseException:
    return BaseExceptionGroup("exit", [SystemExit(3), ValueError("a")])


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: SystemExit(3), "SystemExit"),
        (lambda: OddBase("odd"), "OddBase"),
        (asyncio.CancelledError, "asyncio.exceptions.CancelledError"),
        (lambda: StopIteration(1), "RuntimeError"),  # what Python makes of it in a coroutine
        (group_of_plain_errors, "ExceptionGroup"),
        (group_with_an_exit, "BaseExceptionGroup"),
    ],
)
async def test_whatever_a_handler_raises_fails_its_attempt_and_nothing_else(make: object, kind: str) -> None:
    """A task must not be able to take its worker down: it would do so again at every worker."""
    app = memory_app(retry=NO_WAIT)

    @app.task
    async def odd() -> None:
        raise make()  # type: ignore[operator]

    @app.task
    async def fine() -> str:
        return "fine"

    async with working(app):
        handle = await odd.put()
        with pytest.raises(TaskFailed) as caught:
            await handle.result(timeout_s=5)
        assert await (await fine.put()).result(timeout_s=5) == "fine"
    assert caught.value.error_type is not None
    assert caught.value.error_type.endswith(kind)
    assert stored(app, handle)["attempt"] == 3


async def test_keyboard_interrupt_in_a_handler_stops_the_program() -> None:
    app = memory_app()

    @app.task
    async def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        async with working(app):
            await interrupted.put()
            await trio.sleep(10)
    (document,) = cast(MemoryStore, app.store).documents.values()
    assert (document["status"], document["attempt"]) == ("ready", 0)


async def test_error_whose_text_cannot_be_shown_fails_its_attempt_only() -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    app = memory_app(retry=Retry(max_attempts=1))

    @app.task
    async def rude() -> None:
        raise Rude

    async with working(app):
        with pytest.raises(TaskFailed):
            await (await rude.put()).result(timeout_s=5)


async def test_result_that_cannot_be_stored_fails_at_once() -> None:
    app = memory_app()

    @app.task
    async def unstorable() -> object:
        return object()

    async with working(app):
        handle = await unstorable.put()
        with pytest.raises(TaskFailed, match="PayloadInvalid"):
            await handle.result(timeout_s=5)
    assert stored(app, handle)["attempt"] == 1


async def test_result_that_is_too_large_fails_at_once() -> None:
    app = memory_app(payload_limit_bytes=1_000)

    @app.task
    async def large() -> str:
        return "x" * 2_000

    async with working(app):
        handle = await large.put()
        with pytest.raises(TaskFailed, match="PayloadTooLarge"):
            await handle.result(timeout_s=5)
    assert stored(app, handle)["attempt"] == 1


async def test_undecodable_payload_fails_at_its_first_attempt_and_the_worker_goes_on() -> None:
    app = memory_app()
    ran: list[int] = []

    @app.task
    async def note(number: int) -> None:
        ran.append(number)

    async with app:
        bad = await note.put(1)
        good = await note.put(2)
        stored(app, bad)["payload"] = {"number": "not a number", "more": 1}
    async with working(app, slots=1):
        with pytest.raises(TaskFailed, match="PayloadUndecodable"):
            await bad.result(timeout_s=5)
        await good.result(timeout_s=5)
    assert ran == [2]
    assert stored(app, bad)["attempt"] == 1


# --- snoozing --------------------------------------------------------------------------------------------------


async def test_snooze_comes_back_later_without_using_up_an_attempt() -> None:
    app = memory_app()
    began: list[float] = []

    @app.task(retry=Retry(max_attempts=2, first_s=0))
    async def patient() -> int:
        began.append(trio.current_time())
        if len(began) <= 5:
            raise Snooze(60)
        return current_task().attempt

    async with working(app):
        assert await (await patient.put()).result() == 1
    assert [round(later - sooner) for sooner, later in itertools.pairwise(began)] == [60] * 5


async def test_snooze_out_of_a_nursery_of_the_handler_is_understood() -> None:
    app = memory_app()
    turns: list[int] = []

    @app.task
    async def patient() -> None:
        turns.append(1)
        async with trio.open_nursery():
            if len(turns) == 1:
                raise Snooze(5)

    async with working(app):
        handle = await patient.put()
        await handle.result(timeout_s=60)
    assert len(turns) == 2
    assert "errors" not in stored(app, handle)


# --- time ------------------------------------------------------------------------------------------------------


async def test_handler_past_its_timeout_is_cancelled_and_the_attempt_failed() -> None:
    app = memory_app(retry=Retry(max_attempts=1))
    ended: list[float] = []

    @app.task(timeout_s=30)
    async def slow() -> None:
        began_at = trio.current_time()
        try:
            await trio.sleep(1_000)
        finally:
            ended.append(trio.current_time() - began_at)

    async with working(app):
        handle = await slow.put()
        with pytest.raises(TaskFailed, match=r"TaskTimeout.*timeout_s=30"):
            await handle.result()
    assert ended == pytest.approx([30])


async def test_error_in_the_cleanup_of_a_timed_out_handler_is_still_a_timeout() -> None:
    app = memory_app(retry=Retry(max_attempts=1))

    @app.task(timeout_s=30)
    async def slow() -> None:
        try:
            await trio.sleep(1_000)
        finally:
            raise ValueError("in the cleanup")

    async with working(app):
        with pytest.raises(TaskFailed, match="TaskTimeout"):
            await (await slow.put()).result()


async def test_delayed_task_starts_exactly_on_time() -> None:
    app = memory_app()

    @app.task
    async def when() -> float:
        return trio.current_time()

    async with working(app):
        at = trio.current_time()
        handles = [await when.options(delay_s=delay_s).put() for delay_s in (3_600, 0.25, 45, 45.001)]
        late = [await handle.result() - at for handle in handles]
    assert late == pytest.approx([3_600, 0.25, 45, 45.001], abs=0.002)
    # No sooner, by the store's clock, which leaves out what is less than a millisecond.
    assert all(one > wanted - 0.001 for one, wanted in zip(late, (3_600, 0.25, 45, 45.001), strict=True))


async def test_task_put_for_an_instant_starts_then_and_one_for_the_past_at_once() -> None:
    app = memory_app()

    @app.task
    async def when() -> float:
        return trio.current_time()

    async with working(app):
        now = trio.current_time()
        base = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=now)
        past = await when.options(at=base - timedelta(days=1)).put()
        ahead = await when.options(at=base + timedelta(seconds=90)).put()
        assert await past.result() == now
        assert await ahead.result() - now == pytest.approx(90, abs=0.002)


async def test_delayed_task_put_by_a_process_that_only_puts_is_started_on_time_by_a_worker_elsewhere() -> None:
    """The worker's scheduler sleeps towards a far instant and hears of the nearer one by the stream."""
    here = memory_app(safety_scan_s=None, lease_s=86_400)
    elsewhere = StreamQ.on(here.store, here._bridge)  # type: ignore[arg-type]

    @here.task
    async def when() -> float:
        return trio.current_time()

    async with working(here), elsewhere:
        await when.options(delay_s=50_000).put()
        await trio.sleep(100)
        at = trio.current_time()
        new = when.options(delay_s=7).new()
        (handle,) = await elsewhere.put_many([new])
        assert await handle.result() - at == pytest.approx(7, abs=0.002)


async def test_standby_worker_releases_when_the_first_in_rank_is_dead() -> None:
    """Rank k acts k times 50 ms later: a dead first costs milliseconds, never a task."""
    first, second = (memory_app(safety_scan_s=None, lease_s=86_400) for _ in range(2))
    second._store = first.store  # two processes on one store

    @second.task
    async def when() -> float:
        return trio.current_time()

    async with working(second):
        store = cast(MemoryStore, first.store)
        (mine,) = store.members.values()
        # A member that sorts first, counts as alive and does nothing.
        store.members["member:"] = msgspec.structs.replace(mine, id="")
        await trio.sleep(20)  # the next beat tells the rank
        at = trio.current_time()
        started = await (await when.options(delay_s=10).put()).result()
    # The dead one may be the first of those that claim it, too.
    assert 10.05 <= round(started - at, 6) <= 10.05 + stand_by_s(1)


# --- waiting for results ---------------------------------------------------------------------------------------


async def test_result_times_out_and_can_be_asked_again() -> None:
    app = memory_app()
    go = trio.Event()

    @app.task
    async def wait() -> str:
        await go.wait()
        return "went"

    async with working(app):
        handle = await wait.put()
        before = trio.current_time()
        with pytest.raises(ResultTimeout, match="timeout_s=2"):
            await handle.result(timeout_s=2)
        assert trio.current_time() - before == pytest.approx(2)
        go.set()
        assert await handle.result(timeout_s=2) == "went"


async def test_result_of_a_task_that_is_not_stored_is_told_gone() -> None:
    app = memory_app()
    async with app:
        with pytest.raises(TaskGone):
            await app.handle(ObjectId()).result(timeout_s=5)


async def test_two_waiters_here_and_one_elsewhere_all_hear_the_end() -> None:
    here = memory_app()
    elsewhere = StreamQ.on(here.store, here._bridge)  # type: ignore[arg-type]
    go = trio.Event()
    heard: list[object] = []

    @here.task
    async def wait() -> str:
        await go.wait()
        return "went"

    async def hear(handle: Handle[str]) -> None:
        heard.append(await handle.result(timeout_s=5))

    async with working(here), elsewhere:
        handle = await wait.put()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear, handle)
            nursery.start_soon(hear, handle)
            nursery.start_soon(hear, elsewhere.handle(handle.id))
            await trio.testing.wait_all_tasks_blocked()
            told_at = trio.current_time()
            go.set()
        assert trio.current_time() == told_at  # told, not found by looking again
    assert heard == ["went"] * 3


async def test_wait_returns_the_document_of_a_failed_task() -> None:
    app = memory_app(retry=Retry(max_attempts=1))

    @app.task
    async def broken() -> None:
        raise ValueError("no")

    async with working(app):
        document = await (await broken.put()).wait(timeout_s=5)
    assert document["status"] == "failed"


async def test_cancelled_waiter_leaves_nothing_behind() -> None:
    app = memory_app()

    @app.task
    async def never() -> None:
        await trio.sleep_forever()

    async with working(app):
        handle = await never.put()
        with trio.move_on_after(1):
            await handle.result()
        assert not app.services().waiters._waiting


# --- the app's own edges ---------------------------------------------------------------------------------------


async def test_error_in_the_body_of_an_app_comes_out_as_itself() -> None:
    with pytest.raises(ZeroDivisionError):
        async with memory_app():
            raise ZeroDivisionError


async def test_group_raised_in_the_body_of_an_app_comes_out_as_it_was() -> None:
    mine = ExceptionGroup("mine", [ValueError("one"), KeyError("two")])
    with pytest.raises(ExceptionGroup) as caught:
        async with memory_app():
            raise mine
    assert caught.value is mine


async def test_errors_of_a_nursery_inside_an_app_come_out_as_that_nursery_raised_them() -> None:
    async def fail(error: Exception) -> None:
        raise error

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with memory_app(), trio.open_nursery() as nursery:
            nursery.start_soon(fail, ValueError("one"))
            nursery.start_soon(fail, KeyError("two"))
    assert sorted(type(one).__name__ for one in caught.value.exceptions) == ["KeyError", "ValueError"]


async def test_error_beside_a_worker_comes_out_as_itself_and_the_worker_is_stopped() -> None:
    app = memory_app()

    @app.task
    async def nothing() -> None: ...

    with pytest.raises(ZeroDivisionError):
        async with working(app):
            raise ZeroDivisionError
    assert app.journal.counts["worker stopped"] == 1


async def test_app_can_be_entered_again_after_it_was_left() -> None:
    app = memory_app()

    @app.task
    async def nothing() -> str:
        return "ran"

    for _ in range(2):
        async with working(app):
            assert await (await nothing.put()).result(timeout_s=5) == "ran"


async def test_put_outside_of_the_app_is_refused_saying_what_to_do() -> None:
    app = memory_app()

    @app.task
    async def nothing() -> None: ...

    with pytest.raises(UsageError, match="enter the app first"):
        await nothing.put()


async def test_work_on_a_queue_without_handlers_is_refused_by_name() -> None:
    app = memory_app()

    @app.task(queue="images")
    async def nothing() -> None: ...

    async with app:
        with pytest.raises(UsageError, match=r"'imges' has no handler.*images"):
            await app.work({"imges": 1})


class GatedBridge(InlineBridge):
    """A bridge on which puts wait for `gate`, as in a thread: they are sent, and cannot be cancelled."""

    def __init__(self) -> None:
        self.gate = trio.Event()

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if getattr(function, "__name__", "") == "put":
            await trio.lowlevel.checkpoint_if_cancelled()
            with trio.CancelScope(shield=True):
                await self.gate.wait()
        return await super().call(function, *args)


async def test_puts_in_flight_while_the_app_is_left_get_an_answer() -> None:
    """Somebody outside the block still puts: what was sent is answered, what was not is refused; nobody waits for
    services that are gone."""
    bridge = GatedBridge()
    app = StreamQ.on(MemoryStore(trio_time), bridge)
    answers: list[object] = []

    @app.task
    async def nothing() -> None: ...

    async def put() -> None:
        try:
            answers.append(await nothing.put())
        except UsageError as error:
            answers.append(error)

    async with trio.open_nursery() as nursery, app:
        nursery.start_soon(put)
        await trio.testing.wait_all_tasks_blocked()  # it was sent
        nursery.start_soon(put)
        nursery.start_soon(put)
        await trio.testing.wait_all_tasks_blocked()  # they wait to ride in the next
        app.services().stop()
        nursery.start_soon(put)  # it comes too late
        await trio.testing.wait_all_tasks_blocked()
        bridge.gate.set()
    assert sorted(type(one).__name__ for one in answers) == ["Handle", "UsageError", "UsageError", "UsageError"]
    assert len(cast(MemoryStore, app.store).documents) == 1
