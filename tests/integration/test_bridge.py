"""Store calls in threads: never abandoned, never begun for nobody, and no more at once than is said."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import pytest
import trio
import trio.testing

from streamq.bridge import CALLS_AT_ONCE, ThreadBridge
from streamq.errors import StoreError

SOON_S = 10.0
"""How long a step may take at most."""

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="unset")


class Slow:
    """A store call that is held."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, answer: str) -> str:
        self.begun.release()
        assert self.go.wait(SOON_S)
        return answer

    async def wait_begun(self) -> None:
        assert await trio.to_thread.run_sync(self.begun.acquire, True, SOON_S)


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.go.set()


async def test_call_returns_or_raises_what_the_function_does() -> None:
    bridge = ThreadBridge()
    assert await bridge.call(divmod, 7, 2) == (3, 1)

    def refuse() -> None:
        raise StoreError("no")

    for _ in range(CALLS_AT_ONCE + 1):  # each gives its place back
        with pytest.raises(StoreError, match="no"):
            await bridge.call(refuse)


async def test_call_that_is_cancelled_is_waited_for_and_its_answer_returned(slow: Slow) -> None:
    bridge, answers = ThreadBridge(), list[str]()

    async def call() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            answers.append(await bridge.call(slow, "stored"))
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught

    scopes = list[trio.CancelScope]()
    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await slow.wait_begun()
            scopes[0].cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert not answers
            slow.go.set()
    assert answers == ["stored"]


async def test_call_of_who_is_cancelled_already_is_not_begun() -> None:
    called = list[int]()
    with trio.CancelScope() as scope:
        scope.cancel()
        await ThreadBridge().call(called.append, 1)
    assert scope.cancelled_caught
    assert not called


async def test_call_that_waits_for_a_thread_can_be_cancelled_and_is_not_begun(slow: Slow) -> None:
    bridge, called = ThreadBridge(), list[int]()
    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            for _ in range(CALLS_AT_ONCE):
                nursery.start_soon(bridge.call, slow, "")
                await slow.wait_begun()
            with trio.CancelScope() as scope:
                nursery.start_soon(_when_blocked, scope.cancel)
                await bridge.call(called.append, 1)
            assert scope.cancelled_caught
            slow.go.set()
        await bridge.call(called.append, 2)
    assert called == [2]


async def test_call_sees_its_callers_context_and_leaves_nothing_in_it() -> None:
    """What instruments the driver finds its span so."""
    bridge = ThreadBridge()

    def look() -> str:
        seen = VARIABLE.get()
        VARIABLE.set("by the call")
        return seen

    token = VARIABLE.set("by the caller")
    try:
        assert await bridge.call(look) == "by the caller"
        assert VARIABLE.get() == "by the caller"
    finally:
        VARIABLE.reset(token)
    assert await bridge.call(look) == "unset"


async def _when_blocked(cancel: Callable[[], None]) -> None:
    await trio.testing.wait_all_tasks_blocked()
    cancel()
