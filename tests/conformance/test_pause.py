"""Pausing a queue, on both stores: who serves it is told, who asks is answered, tasks are left as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
