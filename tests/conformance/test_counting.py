"""An attempt counts from its claim: a task that ends its process each time is bounded."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import pytest

from streamq.core.claim import Ask
from streamq.core.document import TaskDocument
from streamq.core.moves import claim as claim_move
from tests.conformance.conftest import Lab

MOST: Final = 3


def count_at_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the claim leaves the count alone, and whoever fails is to count."""
    update: Callable[..., list[dict[str, Any]]] = claim_move.update
    apply: Callable[..., None] = claim_move.apply

    def uncounted(ask: Ask, *args: Any, **more: Any) -> list[dict[str, Any]]:
        stages = update(ask, *args, **more)
        for stage in stages:
            stage.get("$set", {}).pop("attempt", None)
        return stages

    def uncounted_here(document: TaskDocument, ask: Ask, now: datetime, *args: Any) -> None:
        before = document["attempt"]
        apply(document, ask, now, *args)
        document["attempt"] = before

    monkeypatch.setattr(claim_move, "update", uncounted)
    monkeypatch.setattr(claim_move, "apply", uncounted_here)


@pytest.mark.parametrize("counts_at_claim", [True, False], ids=["at the claim", "control: at failure"])
def test_task_whose_holder_always_dies_fails_when_its_attempts_are_used_up(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, counts_at_claim: bool
) -> None:
    if not counts_at_claim:
        count_at_failure(monkeypatch)
    id = lab.put(max_attempts=MOST)
    deaths = 0
    while deaths < 2 * MOST and lab.claim():
        deaths += 1
        lab.pass_time(600)
        lab.store.tick(False)
        lab.pass_time(600)  # from the second time on it goes back apart from others
        lab.store.release_due([id])
    stored = lab.stored(id)
    if counts_at_claim:
        assert (deaths, stored["status"], stored["attempt"]) == (MOST, "failed", MOST)
    else:
        assert (deaths, stored["status"], stored["attempt"]) == (2 * MOST, "ready", 0)
