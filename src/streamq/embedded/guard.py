"""The program's side of the minder: start it, ask it, end it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from streamq.embedded import minder
from streamq.embedded.directory import Directory
from streamq.errors import EmbeddedError

ANSWER_S = 30.0  # the slowest answer waits for a killed mongod to be reaped
END_S = minder.GRACE_S + 10.0


class Guard:
    """One running minder. Every method may be called from any thread; in a forked child the guard is already ended."""

    def __init__(self, directory: Directory) -> None:
        """Start the minder and hand it the directory's lock, which is its own from here on."""
        if not sys.executable:
            raise EmbeddedError(
                "this program names no Python interpreter (sys.executable is empty), which the embedded server needs\n"
                "Start a mongod in another way and connect to it by URI."
            )
        settings = {
            "program_pid": os.getpid(),
            "lock_fd": directory.lock_fd,
            "remove": str(directory.path) if directory.temporary else None,
        }
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            # Isolated and without site-packages: quick to start, and deaf to PYTHON* variables meant for the program.
            [sys.executable, "-I", "-S", str(Path(minder.__file__).resolve()), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            pass_fds=(directory.lock_fd,),
            start_new_session=True,
        )
        self.pid = self._process.pid
        directory.release()
        _guards.add(self)

    def spawn(self, node: int, argv: Sequence[str], log: Path) -> int:
        """Start a mongod and return its pid. It may still end at once: ask `exit_code`."""
        return int(self._ask({"do": "spawn", "node": node, "argv": list(argv), "log": str(log)})["pid"])

    def signal(self, node: int, number: signal.Signals) -> None:
        """Send a signal to a mongod if it runs; after SIGKILL it is gone when this returns."""
        self._ask({"do": "signal", "node": node, "signal": int(number)})

    def status(self, node: int) -> tuple[int | None, int | None]:
        """Return `(pid, exit code)`: no pid when it was never started, no exit code while it runs."""
        status = self._ask({"do": "status"})["nodes"].get(str(node), {})
        return status.get("pid"), status.get("exit_code")

    def end(self) -> None:
        """End the mongods and the minder, and wait for it. Nothing happens the second time, or in a forked child."""
        with self._lock:
            if self._process.returncode is not None:
                return
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()  # EOF is the order to end
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()  # the kernel then kills the mongods
                self._process.wait()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            if self._process.returncode is not None:
                raise EmbeddedError("the embedded server is stopped\nStart another: streamq.embedded.start().")
            answer: dict[str, Any] = json.loads(self._exchange(line) or "{}")
        if not answer:
            raise EmbeddedError(
                f"the process that minds the embedded mongod (pid {self.pid}) does not answer: it was killed\n"
                f"Its mongod was killed with it. Start the server again; a directory of yours keeps its data."
            )
        if "error" in answer:
            raise EmbeddedError(f"mongod could not be run: {answer['error']}")
        return answer

    def _exchange(self, line: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line)
        except OSError:
            return b""
        poller = select.poll()
        poller.register(self._process.stdout, select.POLLIN)
        return self._process.stdout.readline() if poller.poll(ANSWER_S * 1000) else b""

    def _forget(self) -> None:
        """Let go in a forked child: its copies of the pipes would hide the death of the program."""
        self._lock = threading.Lock()  # another thread may have held it at the fork
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.returncode = 0  # not this process's child: nothing to wait for, nothing to warn about


_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


def _forget_all() -> None:
    for guard in list(_guards):
        guard._forget()


os.register_at_fork(after_in_child=_forget_all)
