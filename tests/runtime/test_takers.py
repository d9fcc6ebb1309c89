"""Takers that are closed, as a worker that stops in good order closes them: long before what runs has ended."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from bson import ObjectId

from streamq.core.claim import Claim
from streamq.runtime.held import Held
from streamq.runtime.takers import Takers


def held() -> Held:
    claim = Claim(ObjectId(), "q", "t", None, 1, 5, 0, b"c" * 16, 30.0, None)
    return Held(claim, trio.current_time(), None)


async def test_what_was_not_taken_goes_back_at_once() -> None:
    released: list[Held] = []
    takers = Takers(released.append, keeps=True)
    some = [held(), held()]
    for one in some:
        takers.deliver(one)
    assert (released, list(takers.ready)) == ([], some)
    takers.close()
    assert (released, list(takers.ready)) == (some, [])


async def test_what_a_claim_in_flight_obtains_goes_back_at_once() -> None:
    released: list[Held] = []
    takers = Takers(released.append, keeps=True)
    takers.close()
    late = held()
    takers.deliver(late)
    assert (released, list(takers.ready)) == ([late], [])


async def test_takers_that_wait_or_come_are_told() -> None:
    takers = Takers(lambda held: None, keeps=True)
    told: list[str] = []

    async def take() -> None:
        try:
            await takers.take()
        except trio.EndOfChannel:
            told.append("end")

    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            takers.close()
        with pytest.raises(trio.EndOfChannel):
            await takers.take()
    assert told == ["end"]
