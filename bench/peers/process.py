"""One process of a round, from the run's side."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any, Self

from bench.peers.contender import CACHE, ROOT, Contender

PR_SET_PDEATHSIG = 1
START_S = 30.0
_libc = ctypes.CDLL(None)


class ProgramFailed(Exception):
    """A queue's program ended, or was silent, before it said what was due."""


class Program:
    """A queue's program in the role it was ordered to play. Leaving the block kills it if it has not ended."""

    def __init__(self, contender: Contender, **order: Any) -> None:
        self._name = f"{contender.name} ({order['role']})"
        if contender.variant is not None:
            order["variant"] = contender.variant
        # By the environment: it holds a password, and command lines are for all to see.
        address = {"PEERS_URI": order.pop("uri")} if "uri" in order else {}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._unread = b""
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [*contender.command, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=CACHE if CACHE.exists() else ROOT,  # no project file of ours configures a peer
            env=os.environ
            | address
            | {"PYTHONPATH": os.pathsep.join(paths), "PEERS_NODE": str(CACHE / "node"), "NO_LOG_SUCCESS": "1"},
            preexec_fn=_die_with_run,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def wait_ready(self) -> None:
        """Wait until it says that it is ready."""
        if not self._hear(START_S).get("ready"):
            raise ProgramFailed(f"{self._name} said something else than ready")

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    def result(self, timeout_s: float = START_S) -> dict[str, Any]:
        """Wait for its result."""
        return self._hear(timeout_s)

    def wait_done(self, timeout_s: float = START_S) -> None:
        """Wait for its end, which has to be a good one."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{self._name} did not end within {timeout_s:g} s{self._last_words()}") from None
        if code:
            raise ProgramFailed(f"{self._name} ended with {code}{self._last_words()}")

    def end(self) -> None:
        """End it: at once, for what is measured is known."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            stream.close()

    def _hear(self, timeout_s: float) -> dict[str, Any]:
        """Read the next line of JSON; what a library prints besides is passed over."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        until = time.monotonic() + timeout_s
        while True:
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                if line.startswith(b"{"):
                    heard: dict[str, Any] = json.loads(line)
                    return heard
                continue
            left = until - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise ProgramFailed(f"{self._name} was silent for {timeout_s:g} s{self._last_words()}")
            chunk = os.read(fd, 1 << 20)
            if not chunk:
                raise ProgramFailed(f"{self._name} ended early{self._last_words()}")
            self._unread += chunk

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""


def _die_with_run() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
