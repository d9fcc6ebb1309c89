"""Wrong clocks: processes under libfaketime, whose wall clock a file sets while they run. Their monotonic clock is
right, as that of a machine whose time was set wrong is."""

from __future__ import annotations

import os
import select
import shlex
import time
from pathlib import Path
from typing import Final, SupportsIndex

import pytest

PLACES: Final = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime")
NAME: Final = "libfaketimeMT.so.1"


def library() -> Path | None:
    """Return the library, or None where it is not installed."""
    found = (path for place in PLACES for path in Path("/").glob(f"{place[1:]}/{NAME}"))
    return next(found, None)


MISSING: Final = "libfaketime is not installed (Debian: apt-get install faketime)"

needs_faketime: Final = pytest.mark.skipif(library() is None, reason=MISSING)


class WrongClock:
    """The clock of one process, or of several: `offset_s` is what it is ahead of the right one, 0 at first. `cache_s`:
    how late, at most, a process sees that it was set; 0: it reads the file whenever it asks for the time."""

    def __init__(self, path: Path, offset_s: float = 0.0, *, cache_s: int = 1) -> None:
        self._path = path
        self._cache_s = cache_s
        self.offset_s = offset_s
        self.set(offset_s)

    def set(self, offset_s: float) -> None:
        """Let it be so much ahead, or behind, from now on."""
        self.offset_s = offset_s
        beside = self._path.with_suffix(".new")
        beside.write_text(f"{offset_s:+.0f}\n")
        beside.replace(self._path)  # never read when half written

    def set_right(self) -> None:
        """Let it be right."""
        self.set(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """What a process must have in its environment from its start."""
        how_late = {"FAKETIME_CACHE_DURATION": str(self._cache_s)} if self._cache_s else {"FAKETIME_NO_CACHE": "1"}
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            **how_late,
        }

    def wrapper(self, program: Path, path: Path) -> Path:
        """Write a program at `path` that is `program` under this clock."""
        said = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        path.write_text(f'#!/bin/sh\nexec env {said} {shlex.quote(str(program))} "$@"\n')
        path.chmod(0o700)
        return path


def mend() -> None:
    """Let `time.sleep` of a Python under a wrong clock work: it sleeps until an instant of the monotonic clock, which
    libfaketime 0.9.10 takes for one of the other (`OSError: Invalid argument`). In other processes nothing happens."""
    if "FAKETIME_TIMESTAMP_FILE" in os.environ:
        time.sleep = _sleep


def _sleep(seconds: float | SupportsIndex, /) -> None:
    select.select([], [], [], float(seconds))


def forget(pid: int) -> None:
    """Remove what a process under a wrong clock leaves in shared memory when it is killed. Its pid is nobody's yet."""
    for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
        Path("/dev/shm", name).unlink(missing_ok=True)
