"""The CPU time of processes, from /proc."""

from __future__ import annotations

import os
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(root: int) -> float:
    """Return the CPU seconds that a process, its living descendants, and its children that ended, have taken so far."""
    stats = {int(path.parent.name): _read(path) for path in Path("/proc").glob("[0-9]*/stat")}
    children: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        if fields:
            children.setdefault(int(fields[1]), []).append(pid)
    total, pids = 0, [root]
    while pids:
        pid = pids.pop()
        total += sum(map(int, stats.get(pid, [])[11:15]))
        pids += children.get(pid, [])
    return total * _TICK_S


def _read(path: Path) -> list[str]:
    try:
        return path.read_text().rpartition(") ")[2].split()
    except OSError:  # it ended meanwhile
        return []
