"""What a process has used, from /proc. Elsewhere than on Linux: nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

LOOK_S: Final = 0.25
QUIET: Final = 0.2
"""Cores that processes use together when they idle, and a little more: 16 idle workers 0.05, 16 of the floor, which ask
ten times a second whether they are to stop, 0.1."""


def cpu_s(pid: int) -> float:
    """Seconds of CPU that all threads of a process have used, in user and kernel mode."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def name_of(pid: int) -> str:
    """The name of the program that a process runs; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def wait_quiet(pids: Iterable[int], most_s: float) -> bool:
    """Wait until processes are through with what their start left to do, at most so long; say whether they are."""
    until = time.monotonic() + most_s
    hands = list(pids)
    used_s = sum(map(cpu_s, hands))
    while (left_s := until - time.monotonic()) > 0:
        look_s = min(LOOK_S, left_s)
        time.sleep(look_s)
        before_s, used_s = used_s, sum(map(cpu_s, hands))
        if used_s - before_s <= QUIET * look_s:
            return True
    return False


def rss_mb(pid: int) -> float:
    """The memory of a process that is resident now."""
    return _status_mb(pid, "VmRSS")


def peak_rss_mb(pid: int) -> float:
    """The most that was ever resident."""
    return _status_mb(pid, "VmHWM")


def _status_mb(pid: int, name: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith(name + ":")), 0.0)
