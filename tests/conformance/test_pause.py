"""Pausing a queue, on both stores: who serves it is told, who asks is answered, tasks are left as they are."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, DuplicateKeyError

from streamq.core.limits import Limits
from streamq.core.wake import Wake
from streamq.errors import StoreError

if TYPE_CHECKING:
    from tests.conformance.conftest import Lab, MongoLab


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


@pytest.mark.parametrize("before", [(), (True,), (True, False)])
def test_a_pause_that_comes_late_does_not_hold_after_its_resume(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch, before: tuple[bool, ...]
) -> None:
    """Its sender has given it up, and has paused and resumed since."""
    for paused in before:
        mongo.store.pause("q", paused)
    on_its_way: list[tuple[Any, ...]] = []

    def hold(*args: Any, **kwargs: Any) -> None:
        on_its_way.append((args, kwargs))
        raise AutoReconnect("the road is broken")

    update_one = Collection.update_one
    with monkeypatch.context() as patches:
        patches.setattr(Collection, "update_one", hold)
        with pytest.raises(StoreError):
            mongo.store.pause("q", True)
    mongo.store.pause("q", True)
    mongo.store.pause("q", False)
    ((args, kwargs),) = on_its_way
    with suppress(DuplicateKeyError):
        update_one(*args, **kwargs)
    assert mongo.store.paused(["q"]) == []


def test_what_two_say_of_a_queue_at_once_is_said_by_both(mongo: MongoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    find_one = Collection.find_one
    others = [True, False, False]

    def read_before(self: Collection[Any], *args: Any, **kwargs: Any) -> Any:
        read = find_one(self, *args, **kwargs)
        if others:
            paused = others.pop()
            with monkeypatch.context() as patches:
                patches.setattr(Collection, "find_one", find_one)
                mongo.store.pause("q", paused)
        return read

    monkeypatch.setattr(Collection, "find_one", read_before)
    mongo.store.pause("q", True)
    assert not others
    assert mongo.store.paused(["q"]) == ["q"]
