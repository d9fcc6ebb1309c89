"""A run that is killed leaves no process and no directory, whatever its programs are doing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.actor import ROOT
from tests.patience import eventually, is_alive

PROGRAM: Final = """
import sys, time
from pathlib import Path
from streamq import embedded
from tests.chaos.scene import Scene

with embedded.start() as server, Scene(server, Path(sys.argv[1]), 1) as scene:
    scene.hire_all(["worker", "producer", "probe"])
    for frozen in scene.of("worker"):
        frozen.freeze()
    for actor in scene.actors:
        print(f"{actor.name}={actor.pid}", end=" ")
    print(f"minder={server.minder_pid} mongod={server.nodes[0].pid}", flush=True)
    time.sleep(600)
"""


@pytest.mark.chaos
def test_run_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    run = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "history")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    with run:
        assert run.stdout is not None
        pids = {name: int(pid) for name, pid in (word.split("=") for word in run.stdout.readline().split())}
        assert len(pids) == 6
        run.kill()
        run.wait(60)
    eventually(lambda: not any(map(is_alive, pids.values())), within_s=60)
    assert [name for name, pid in pids.items() if is_alive(pid)] == []
    assert eventually(lambda: not list(temporary.glob("streamq-embedded-*/set-*")), within_s=60)
