"""Pausing a queue, on both stores: who serves it is told, who asks is answered, tasks are left as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from streamq.core.limits import Limits
from streamq.core.wake import Wake

if TYPE_CHECKING:
    from tests.conformance.conftest import Lab


def test_a_paused_queue_is_named_until_it_is_resumed(lab: Lab) -> None:
    assert lab.store.paused(None) == []
    lab.store.pause("q", True)
    lab.store.pause("$q:2", True)
    lab.store.pause("r", False)
    lab.store.pause("q", True)
    assert lab.store.paused(None) == ["$q:2", "q"]
    assert lab.store.paused(["q", "x"]) == ["q"]
    assert lab.store.paused([]) == []
    lab.store.pause("q", False)
    assert lab.store.paused(["q"]) == []


def test_who_serves_the_queue_is_told_once_and_nobody_else(lab: Lab) -> None:
    ear, other = lab.hear("q", timers=True), lab.hear("r")
    for paused in (True, True, False, False, True):
        lab.store.pause("q", paused)
    told = [wake for wake in ear.rest() if wake.kind != "member"]
    assert told == [Wake(kind, queue="q") for kind in ("pause", "resume", "pause")]
    assert [wake for wake in other.rest() if wake.kind != "member"] == []


def test_a_paused_queue_is_in_no_listing_and_no_count(lab: Lab) -> None:
    lab.store.pause("q", True)
    id = lab.put()
    assert lab.store.counts() == {"q": {"ready": 1}}
    assert lab.stored(id)["status"] == "ready"
    assert lab.store.tick().released == ()


@pytest.mark.parametrize("limits", [None, Limits(running=2)], ids=["", "limits"])
def test_claim_that_heeds_a_pause_obtains_nothing_of_a_paused_queue_and_says_so(
    lab: Lab, limits: Limits | None
) -> None:
    for queue in ("q", "r"):
        lab.put(queue)
        lab.put(queue)
    lab.store.pause("q", True)
    nothing = lab.store.claim(lab.ask(1, queue="q", limits=limits, heeds_pause=True))
    assert (nothing.claims, nothing.more, nothing.paused) == ((), False, True)
    other = lab.store.claim(lab.ask(1, queue="r", limits=limits, heeds_pause=True))
    assert (len(other.claims), other.paused) == (1, False)
    told = lab.store.claim(lab.ask(1, queue="q", limits=limits))
    assert (len(told.claims), told.paused) == (1, False), "a worker hears of it through the stream"
    lab.store.pause("q", False)
    resumed = lab.store.claim(lab.ask(2, queue="q", limits=limits, heeds_pause=True))
    assert (len(resumed.claims), resumed.paused) == (1, False)


def test_claim_that_heeds_a_pause_takes_the_tasks_in_order(lab: Lab) -> None:
    ids = [lab.put(priority=priority) for priority in (0, 5, 0, 9)]
    lab.store.pause("q", True)
    lab.store.pause("q", False)
    claims = lab.store.claim(lab.ask(3, heeds_pause=True)).claims
    assert [claim.id for claim in claims] == [ids[3], ids[1], ids[0]]
