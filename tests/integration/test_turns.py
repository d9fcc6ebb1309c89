"""Calls in turn, with real threads: whom they wait for, and that their turn comes."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing
from bson import ObjectId

from streamq.bridge import ThreadBridge, Turn, Turns

SOON_S = 10.0
"""How long a step may take at most."""


async def test_calls_in_turn_wait_for_the_one_before_them() -> None:
    bridge, turns, began, gate, order = ThreadBridge(), Turns(), threading.Event(), threading.Event(), list[str]()

    def first(turn: Turn) -> None:
        began.set()
        assert gate.wait(SOON_S)
        order.append("first")

    async def beside() -> None:
        # A call that is in nobody's turn, made after the others: it goes through while they wait.
        await bridge.call(order.append, "beside")
        gate.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bridge.in_turn, turns, first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(bridge.in_turn, turns, lambda turn: order.append("second"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(beside)
    assert order == ["beside", "first", "second"]


async def test_turn_comes_though_a_caller_before_it_was_cancelled_or_its_call_has_failed() -> None:
    """Those behind it would wait for ever, in threads that nothing ends."""
    bridge, turns = ThreadBridge(), Turns()
    with trio.CancelScope() as scope:
        scope.cancel()
        await bridge.in_turn(turns, lambda turn: 0)
    with pytest.raises(ZeroDivisionError):
        await bridge.in_turn(turns, lambda turn: 1 // 0)
    with trio.fail_after(SOON_S):
        assert await bridge.in_turn(turns, lambda turn: 0) == 0


async def test_next_call_in_turn_is_made_while_trio_is_busy() -> None:
    """That is what they are for: a handler that computes must not keep the server waiting for the next claim."""
    bridge, turns, gate, made = ThreadBridge(), Turns(), threading.Event(), threading.Event()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bridge.in_turn, turns, lambda turn: gate.wait(SOON_S))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(bridge.in_turn, turns, lambda turn: made.set())
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        assert made.wait(SOON_S)  # trio's own thread, held up


async def test_next_call_begins_once_the_turn_is_passed_on_and_hears_what_is_not_through() -> None:
    bridge, turns, passed, gate, heard = ThreadBridge(), Turns(), threading.Event(), threading.Event(), list[object]()
    ids = [ObjectId()]

    def first(turn: Turn) -> None:
        turn.pass_on(ids)
        assert gate.wait(SOON_S)

    def second(turn: Turn) -> None:
        heard.append(list(turn.beside))
        passed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bridge.in_turn, turns, first)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(SOON_S):
            await bridge.in_turn(turns, second)
        gate.set()
    assert heard == [ids]


async def test_call_hears_nothing_of_one_before_it_that_is_through() -> None:
    bridge, turns = ThreadBridge(), Turns()
    await bridge.in_turn(turns, lambda turn: turn.pass_on([ObjectId()]))
    assert list(await bridge.in_turn(turns, lambda turn: turn.beside)) == []
