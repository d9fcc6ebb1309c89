"""A protection and its control: the same scene without it must end badly, or the scene proves nothing.

Others of this kind: the barrier (tests/integration/test_stream.py), the stream's aliveness (tests/faults/
test_streams.py), the fence and the scan behind the stream (tests/chaos/test_mutants.py, test_rolled_back.py).
"""

from __future__ import annotations

from typing import Any

import pytest

from streamq.core.moves import claim as claim_move
from tests.conformance.conftest import MongoLab


def uncounted(*args: Any, **more: Any) -> list[dict[str, Any]]:
    """Control: a claim that leaves the counting to the end of the attempt."""
    stages = claim_update(*args, **more)
    return [
        {"$set": {name: value for name, value in stage["$set"].items() if name != "attempt"}}
        if "$set" in stage
        else stage
        for stage in stages
    ]


claim_update = claim_move.update


@pytest.mark.parametrize("counted", ["at the claim", "control: at the end"])
def test_task_that_kills_its_worker_ends_because_attempts_are_counted_at_the_claim(
    mongo: MongoLab, monkeypatch: pytest.MonkeyPatch, counted: str
) -> None:
    """No attempt of it ever comes to its end."""
    if counted != "at the claim":
        monkeypatch.setattr(claim_move, "update", uncounted)
    id = mongo.put(max_attempts=2)
    deaths = 0
    while deaths < 5 and mongo.claim():
        deaths += 1
        for _ in ("its lease ends", "the time is over for which it is put off"):
            mongo.pass_time(3600)
            mongo.store.tick()
    if counted != "at the claim":
        assert deaths == 5, "it would go on for ever"
        return
    assert deaths == 2
    assert mongo.stored(id)["status"] == "failed"
