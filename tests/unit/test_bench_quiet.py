"""A round of the bench begins when its processes are through with their start."""

from __future__ import annotations

import time

import pytest

from streamq.bench import process

PIDS = (1, 2)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Virtual time: what was slept."""
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(naps))
    return naps


@pytest.mark.parametrize(("busy_s", "looks"), [(0.0, 1), (1.0, 5), (1.1, 6)])
def test_processes_are_waited_for_while_they_use_much(
    slept: list[float], monkeypatch: pytest.MonkeyPatch, busy_s: float, looks: int
) -> None:
    monkeypatch.setattr(process, "cpu_s", lambda pid: min(busy_s, sum(slept)) / len(PIDS))
    assert process.wait_quiet(PIDS, 60.0)
    assert len(slept) == looks


def test_processes_that_never_rest_are_not_waited_for_beyond_the_time(
    slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "cpu_s", lambda pid: sum(slept))
    assert not process.wait_quiet(PIDS, 1.1)
    assert sum(slept) == pytest.approx(1.1)
