"""Several processes find what one finds, and are gone when it is over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.simulation.jobs import BLOCK, failures
from tests.simulation.pretended import BAD, played

ROOT: Final = Path(__file__).parents[2]
SEEDS: Final = range(1_000, 1_000 + 8 * BLOCK)
LONG_S: Final = 120.0


@pytest.mark.parametrize("jobs", [1, 3])
def test_first_seeds_that_fail_are_the_same_however_many_jobs_there_are(jobs: int) -> None:
    counts: list[int] = []
    assert failures(SEEDS, jobs, counts.append, most=2, play=played)[:2] == [1_070, 1_071]
    assert failures(SEEDS, jobs, most=9, play=played) == sorted(BAD)
    assert counts == sorted(counts)
    if jobs == 1:
        assert counts[-1] == 3 * BLOCK, "nothing behind those that fail is begun"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_jobs_are_gone_when_they_are_interrupted_or_their_parent_is_killed(signum: signal.Signals) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    command = [sys.executable, "-m", "tests.simulation", "--seeds", "1000000", "--seed", "1", "--jobs", "2"]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, process_group=0) as parent:
        try:
            _until(lambda: len(_jobs_of(parent.pid)) == 2)
            jobs = _jobs_of(parent.pid)
            parent.send_signal(signum)
            assert parent.wait(LONG_S) == (130 if signum == signal.SIGINT else -signal.SIGKILL)
            _until(lambda: not any(map(_is_alive, jobs)))
        finally:
            parent.kill()


def _jobs_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in children if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)
