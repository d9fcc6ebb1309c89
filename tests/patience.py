"""Waiting for what happens in another process, which sends no signal here; whether a process is there; freezing one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamq.embedded.standstill import stands_still, state_of


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
        return state_of(Path(f"/proc/{pid}/stat")) != "Z"  # a zombie waits for its parent to look, and pid 1 may not
    except (FileNotFoundError, ProcessLookupError):
        return False


def freeze(pid: int) -> None:
    """Stop a process with SIGSTOP; no thread of it runs when this returns.

    The signal stops nothing by itself, see `streamq.embedded.standstill`.
    """
    os.kill(pid, signal.SIGSTOP)
    if not eventually(lambda: stands_still(pid)):
        raise AssertionError(f"process {pid} does not stop")
