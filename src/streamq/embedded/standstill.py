"""Whether a process that was told to stop stands still.

SIGSTOP stops nothing by itself: one thread of the process has to take it, and on a busy machine the others run on for
tens of milliseconds until that thread has its turn.
"""

from __future__ import annotations

from pathlib import Path


def stands_still(pid: int) -> bool:
    """Say whether no thread of a process runs any more. Elsewhere than on Linux that is not known: True."""
    try:
        return {state_of(stat) for stat in Path(f"/proc/{pid}/task").glob("*/stat")} <= {"T"}
    except (FileNotFoundError, ProcessLookupError):
        return False  # one ended just now


def state_of(stat: Path) -> str:
    """Read the state of a process or thread, as `proc(5)` names it, from its `stat`."""
    return stat.read_text().rpartition(")")[2].split()[0]
