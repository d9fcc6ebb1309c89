"""`streamq worker --procs N`: N worker processes, each a fresh interpreter, and this one that minds them.

- One that ends unasked is started again after a pause that doubles while they keep ending soon. One that says it was
  started wrongly (exit code 2) would say so every time: all are stopped.
- SIGTERM or SIGINT here goes to all of them; this process ends after the last. A second one goes to all again. They are
  in process groups of their own, so that Ctrl-C reaches them once, by way of here.
- Killed, this process leaves none behind: each holds a lifeline (see `lifeline`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

from streamq.cli.lifeline import VARIABLE
from streamq.cli.screen import complain
from streamq.errors import StreamQError, UsageError

MISUSED: Final = 2
PAUSE_S: Final = (0.5, 30.0)
"""Shortest and longest pause before a process is started again."""

SOUND_S: Final = 60.0
"""A process that lived so long was sound: the next pause is the shortest."""

AT_ONCE_S: Final = 3.0
"""How long processes that were told twice may take to end."""


class Place:
    """One of the N, with the process that fills it at the moment."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.began_at = 0.0
        self.start_at = 0.0
        self.pause_s = PAUSE_S[0]


class Supervisor:
    """Runs `argv` in N processes until told to stop. For the main thread of a program with no other."""

    def __init__(self, argv: Sequence[str], count: int, environment: Mapping[str, str]) -> None:
        self._argv = argv
        self._environment = environment
        self._places = [Place(number) for number in range(1, count + 1)]
        self._asked = 0  # signals heard
        self._told = 0  # of them, handed on
        self._kill_at = float("inf")
        self._wrong = False  # a process was started wrongly
        self._failed = False  # one did not end in good order when all were to

    def run(self) -> None:
        """Return when all have ended in good order after a signal. Raises `UsageError` or `StreamQError` else."""
        lifeline, held = os.pipe()  # `held` is this process's alone
        wake = self._listen()
        try:
            while (self._asked == 0 and not self._wrong) or self._running():
                self._tell()
                self._fill(lifeline)
                with contextlib.suppress(InterruptedError):
                    select.select([wake], [], [], self._idle_s())
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
                self._reap()
                if time.monotonic() >= self._kill_at:
                    self._signal(signal.SIGKILL)
        finally:
            os.close(held)
        if self._wrong:
            raise UsageError("a worker process was started wrongly (see above); all are stopped")
        if self._failed:
            raise StreamQError("not all worker processes ended in good order; what they ran comes back by its lease")

    def _listen(self) -> int:
        """Turn signals into bytes to wait for."""
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)
        return read_fd

    def _hear(self, number: int, _: object) -> None:
        self._asked += 1  # and no more: it may come while a process is being started

    def _tell(self) -> None:
        while self._told < self._asked:
            self._told += 1
            self._signal(signal.SIGTERM)
            if self._told > 1:
                self._kill_at = min(self._kill_at, time.monotonic() + AT_ONCE_S)

    def _fill(self, lifeline: int) -> None:
        for place in self._places:
            if self._asked or self._wrong:
                return
            if place.process is None and place.start_at <= time.monotonic():
                place.began_at = time.monotonic()
                place.process = subprocess.Popen(
                    [sys.executable, "-m", "streamq", *self._argv],
                    env={**os.environ, **self._environment, VARIABLE: str(lifeline)},
                    pass_fds=(lifeline,),
                    process_group=0,
                )

    def _reap(self) -> None:
        for place in self._places:
            code = None if place.process is None else place.process.poll()
            if place.process is None or code is None:
                continue
            pid, place.process = place.process.pid, None
            if self._asked or self._wrong:
                # One that was still starting has no handler for the signal yet, and no task.
                self._failed = self._failed or code not in (0, -signal.SIGTERM if self._told < 2 else 0)
                continue
            if code == MISUSED:
                self._wrong = True
                self._signal(signal.SIGTERM)
                continue
            sound = time.monotonic() - place.began_at > SOUND_S
            place.pause_s = PAUSE_S[0] if sound else place.pause_s
            place.start_at = time.monotonic() + place.pause_s
            complain(
                f"worker process {place.number} (pid {pid}) {_ending(code)}; it is started again in {place.pause_s:g} s"
            )
            place.pause_s = min(place.pause_s * 2, PAUSE_S[1])

    def _idle_s(self) -> float | None:
        until = [self._kill_at]
        if not self._asked and not self._wrong:
            until += [place.start_at for place in self._places if place.process is None]
        soonest = min(until)
        return None if soonest == float("inf") else max(0.0, soonest - time.monotonic())

    def _running(self) -> list[subprocess.Popen[bytes]]:
        return [place.process for place in self._places if place.process is not None]

    def _signal(self, number: int) -> None:
        for process in self._running():
            process.send_signal(number)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
