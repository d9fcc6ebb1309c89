"""Bugs planted in the workers are found by the same rounds: a checker that could find nothing would prove nothing.

The rounds of `test_rounds` are their controls: the same without the bug, and good.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import pytest

from streamq.embedded import EmbeddedServer
from tests.chaos.conftest import SEED
from tests.chaos.findings import Violation
from tests.chaos.orders import Load
from tests.chaos.round import Round, play
from tests.chaos.scene import Scene
from tests.chaos.schedule import Strike

LONG: Final = Load(
    putters=2,
    pause_ms=250,
    burst=0,
    long_share=1.0,
    long_ms=2_000,
    lasting_share=0.0,
    fails_share=0.0,
    delayed_share=0.0,
    once_share=0.0,
)
"""Work for two seconds each, of three that a lease lasts: who comes back late finds another at work."""

LASTING: Final = msgspec.structs.replace(LONG, lasting_share=1.0)
"""Work that is extended and reported."""

ONCE: Final = msgspec.structs.replace(LONG, putters=4, pause_ms=50, long_share=0.0, delayed_share=1.0, once_share=1.0)
"""Short work with one attempt, all of it put off: there is what to claim while nothing can be put."""

FEW: Final = Load(
    putters=2, pause_ms=100, burst=0, long_share=0.0, lasting_share=0.0, work_ms=5, fails_share=0.0, delayed_share=0.0
)
"""So few that a worker never has to look what else there is."""

STRIKES: Final = 6
"""One is mostly enough; which of the workers is frozen, and amid what, is luck."""

HOLD_S: Final = 3.6


@pytest.mark.chaos
def test_fence_of_the_status_alone_is_found_by_a_worker_that_was_frozen(three: EmbeddedServer, tmp_path: Path) -> None:
    with Scene(three, tmp_path / "history", SEED, load=LONG, mutants=("fence_by_status",)) as scene:
        assert "stale" in {one.kind for one in found_by_freezing(scene)}


@pytest.mark.chaos
def test_extension_or_progress_with_a_fence_of_the_status_alone_is_found_by_a_worker_that_was_frozen(
    three: EmbeddedServer, tmp_path: Path
) -> None:
    with Scene(three, tmp_path / "history", SEED, load=LASTING, mutants=("keep_by_status",)) as scene:
        found = found_by_freezing(scene)
    kept = ("extend by", "renew by", "progress by")
    assert any(one.kind == "stale" and one.why.startswith(kept) for one in found), found


@pytest.mark.chaos
def test_claims_without_a_majority_of_what_may_start_once_are_found_by_a_rollback(
    three: EmbeddedServer, tmp_path: Path
) -> None:
    kinds: set[str] = set()
    with Scene(three, tmp_path / "history", SEED, load=ONCE, mutants=("hasty_claims",)) as scene:
        scene.hire_all(["probe", "worker", "worker", "producer"])
        for number in range(STRIKES):
            strike = Strike(2.0, "rolled-back", "server", HOLD_S, number)
            kinds |= play(scene, Round(f"once-{number}", SEED, 6.0, [strike])).findings.counts.keys()
            if kinds:
                break
    assert "twice" in kinds


def found_by_freezing(scene: Scene) -> tuple[Violation, ...]:
    """Freeze workers past their leases, one after the other, until something is found."""
    scene.hire_all(["probe", "hand", "hand", "worker", "producer"])
    for number in range(STRIKES):
        strike = Strike(2.0, "worker-frozen", "programs", HOLD_S, number)
        report = play(scene, Round(f"fence-{number}", SEED, 6.0, [strike], still_s=15.0))
        if report.findings.violations:
            return report.findings.violations
    return ()


@pytest.mark.chaos
def test_scan_before_the_stream_is_found_and_the_history_of_a_bad_round_is_kept(
    three: EmbeddedServer, tmp_path: Path
) -> None:
    with Scene(three, tmp_path / "history", SEED, load=FEW, mutants=("scan_before_stream",)) as scene:
        scene.hire_all(["probe", "producer"])
        scene.hire("worker")  # while tasks come
        report = play(scene, Round("scan", SEED, 2.0, [], still_s=6.0))
    assert not report.drained
    assert report.findings.counts.keys() == {"lost"}
    assert all("still ready" in one.why for one in report.findings.violations)
    kept = {path.name for path in (tmp_path / "history").iterdir()}
    assert {"run.jsonl", "stored.json", "node0.log", "node1.log", "node2.log"} <= kept
