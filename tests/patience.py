"""Waiting for what happens in another process, which sends no signal here; whether a process is there; freezing one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def eventually(condition: Callable[[], Any], within_s: float = 20.0) -> bool:
    """Look again until `condition` holds; False when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_alive(pid: int) -> bool:
    """Say whether a process runs."""
    try:
        return _state(Path(f"/proc/{pid}/stat")) != "Z"  # a zombie waits for its parent to look, and pid 1 may not
    except (FileNotFoundError, ProcessLookupError):
        return False


def freeze(pid: int) -> None:
    """Stop a process with SIGSTOP; no thread of it runs when this returns.

    The signal stops nothing by itself: one thread has to take it, and on a busy machine the others run on for tens of
    milliseconds until that thread has its turn.
    """
    os.kill(pid, signal.SIGSTOP)
    if not eventually(lambda: {_state(stat) for stat in Path(f"/proc/{pid}/task").glob("*/stat")} == {"T"}):
        raise AssertionError(f"process {pid} does not stop")


def _state(stat: Path) -> str:
    return stat.read_text().rpartition(")")[2].split()[0]
