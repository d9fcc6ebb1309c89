"""The minder: the process between a program and its mongods, so that none of them outlives the program.

    program ──pipe──▶ minder ──PR_SET_PDEATHSIG──▶ mongod, mongod, …

- The program ends in whatever way (exit, SIGTERM, SIGKILL, exec): the pipe reads EOF, and the program's pidfd reads
  ready even while a forked child of the program still holds the pipe. The minder stops the mongods and, for a
  temporary directory, removes it.
- The minder is killed: the kernel kills the mongods, for each asked for SIGKILL at the death of its parent. That
  request is tied to the *thread* that forked, not to the process: a program that forked mongod from a worker thread
  would lose it when that thread ends. The minder has one thread, hence this process. The directory is then swept by the
  next start, which finds its lock free.
- Ctrl-C goes to the program only: the minder leads a session of its own, so the program can settle before its mongod
  is gone.

This file runs alone (`python -I -S minder.py`): stdlib only, nothing of streamq or pymongo, so that it is up in about
50 ms. It holds the directory's lock (an inherited descriptor) for as long as a mongod may be running. Requests and
answers are lines of JSON on stdin and stdout; each request gets one answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1
# Chosen freely. A clean stop takes mongod 1 s; with three nodes the primary first tries to hand over.
GRACE_S = 20.0
# Only where the kernel has no pidfd (Linux before 5.3, macOS): how late a death may be noticed when a forked child
# holds the pipe open.
PARENT_CHECK_MS = 500

Request = dict[str, Any]
Answer = dict[str, Any]


class Minder:
    """Runs the mongods of one server and answers its program until either of them ends."""

    def __init__(self, program_pid: int, lock_fd: int, remove: str | None) -> None:
        self._program_pid = program_pid
        self._lock_fd = lock_fd
        self._remove = remove
        self._nodes: dict[int, subprocess.Popen[bytes]] = {}
        self._ending = False
        self._die_with_minder = _death_wish()

    def run(self) -> None:
        """Serve requests until the pipe is closed, the program is gone, or SIGTERM; then end everything."""
        wake_fd = self._listen_to_signals()
        pid_fd = _pidfd(self._program_pid)
        poller = select.poll()
        for fd in (0, wake_fd, *([pid_fd] if pid_fd is not None else [])):
            poller.register(fd, select.POLLIN)
        unread = b""
        while not self._ending:
            ready = [fd for fd, _ in poller.poll(None if pid_fd is not None else PARENT_CHECK_MS)]
            if wake_fd in ready:
                os.read(wake_fd, 4096)
                self._reap()
            if pid_fd in ready or os.getppid() != self._program_pid:
                break
            if 0 in ready:
                chunk = os.read(0, 65536)
                if not chunk:
                    break
                *lines, unread = (unread + chunk).split(b"\n")
                for line in lines:
                    self._reply(self._answer(json.loads(line)))
        self._end()

    def _listen_to_signals(self) -> int:
        """Turn signals into bytes to poll for: a dead mongod is reaped at once, SIGTERM ends all."""
        # The thread that started us may have blocked signals; the mask is inherited through exec.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for ending in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(ending, self._on_ending)
        return read_fd

    def _on_ending(self, *_: object) -> None:
        self._ending = True

    def _reap(self) -> None:
        for process in self._nodes.values():
            process.poll()

    # --- requests ----------------------------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Answer:
        match request["do"]:
            case "spawn":
                return self._spawn(request["node"], request["argv"], request["log"])
            case "signal":
                return self._signal(request["node"], request["signal"])
            case "status":
                return {"nodes": {str(n): _status(process) for n, process in self._nodes.items()}}
            case unknown:
                return {"error": f"unknown request {unknown!r}"}

    def _spawn(self, node: int, argv: list[str], log: str) -> Answer:
        """Fork mongod from this, the only thread, with its output (mongod's and the loader's) appended to `log`."""
        try:
            with open(log, "ab") as out:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    preexec_fn=self._die_with_minder,
                )
        except (OSError, subprocess.SubprocessError) as error:
            return {"error": str(error)}
        self._nodes[node] = process
        return {"pid": process.pid}

    def _signal(self, node: int, number: int) -> Answer:
        """Send a signal unless the mongod has ended: asked of its parent, so it never reaches a reused pid."""
        process = self._nodes[node]
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait()
        return _status(process)

    def _reply(self, answer: Answer) -> None:
        line = json.dumps(answer).encode() + b"\n"
        with contextlib.suppress(OSError):  # the program has just died: the next read says so
            os.write(1, line)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Stop the mongods and remove the temporary directory. Data that is thrown away needs no clean shutdown."""
        for ending in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)
        with contextlib.suppress(OSError):  # a full disk must not keep us from ending
            os.pwrite(self._lock_fd, b"stopping\n", 0)
        self._signal_all(signal.SIGKILL if self._remove else signal.SIGTERM)
        self._signal_all(signal.SIGCONT)  # a suspended mongod hears SIGTERM once it goes on
        deadline = time.monotonic() + GRACE_S
        while self._running() and time.monotonic() < deadline:
            time.sleep(0.005)
        self._signal_all(signal.SIGKILL)
        for process in self._running():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
        if self._remove:
            shutil.rmtree(self._remove, ignore_errors=True)

    def _signal_all(self, number: int) -> None:
        for process in self._running():
            process.send_signal(number)

    def _running(self) -> list[subprocess.Popen[bytes]]:
        return [process for process in self._nodes.values() if process.poll() is None]


def _status(process: subprocess.Popen[bytes]) -> Answer:
    return {"pid": process.pid, "exit_code": process.poll()}


def _pidfd(pid: int) -> int | None:
    """Return a descriptor that polls ready when `pid` ends, or None where the system has none.

    The caller compares `getppid` afterwards: a program that died before this line may have given its pid away.
    """
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _death_wish() -> Callable[[], None] | None:
    """Return what a child runs before exec so that the kernel kills it when this thread, its parent, ends."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    minder_pid = os.getpid()

    def ask_the_kernel() -> None:
        if prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        # The minder may have been killed between the fork and the prctl: then no signal will come.
        if os.getppid() != minder_pid:
            os._exit(1)

    return ask_the_kernel


if __name__ == "__main__":
    Minder(**json.loads(sys.argv[1])).run()
