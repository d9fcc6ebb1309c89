"""Waiting for an instant in trio, to some ten microseconds.

`trio.sleep_until` wakes up to a millisecond late, for epoll counts in milliseconds; as much as half a pickup. A timerfd
of Linux wakes in time, and is a descriptor like any other. Elsewhere trio's own sleep has to do.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any, Final, Self

import trio

NS: Final = 1_000_000_000
ABSOLUTE: Final = 1  # TFD_TIMER_ABSTIME


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("ns", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Ticker:
    """For one trio task, as `with Ticker() as ticker:`."""

    def __init__(self) -> None:
        self._libc: Any = None
        self._fd = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    async def wait_until(self, at: int) -> None:
        """Wait until `at`, in ns of the monotonic clock; at once when it has passed. Always a checkpoint."""
        if at <= time.monotonic_ns():
            await trio.lowlevel.checkpoint()
            return
        if self._fd < 0:
            await trio.sleep((at - time.monotonic_ns()) / NS)
            return
        spec = _Itimerspec(_Timespec(0, 0), _Timespec(at // NS, at % NS))
        if self._libc.timerfd_settime(self._fd, ABSOLUTE, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        await trio.lowlevel.wait_readable(self._fd)
        os.read(self._fd, 8)
