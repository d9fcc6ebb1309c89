"""A program of the run, from the run's side: started, struck, ended."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from tests.chaos.event import Died
from tests.chaos.orders import Orders
from tests.patience import freeze

ROOT: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 90.0
"""It may have to wait for a primary, on a machine that has other things to do."""

STOP_S: Final = 45.0
"""A stop gives back what is held and waits for what is on the way, through an election if there is one."""

Role = Literal["producer", "worker", "hand", "probe", "auditor"]


class NotReady(RuntimeError):
    """A program did not do what it was told in time."""


class Actor:
    """One process. Started from the main thread, with whose end it ends."""

    def __init__(self, role: Role, name: str, orders: Orders, into: Sequence[str] = ()) -> None:
        """`into`: what its command line begins with, to be elsewhere than the run."""
        self.role = role
        self.name = name
        self.log = orders.path
        self._killed = False
        self._ready = False
        self._late: str | None = None
        self._stderr = orders.path.with_suffix(".stderr")
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*into, sys.executable, "-m", f"tests.chaos.{role}", msgspec.json.encode(orders).decode()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                stderr=stderr,
                cwd=ROOT,
            )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Say whether it is there."""
        return self._process.poll() is None

    def wait_ready(self) -> None:
        """Return once it says that it is. Raises `NotReady`."""
        if not self._ready:
            self._hear("ready")
            self._ready = True

    def pause(self) -> None:
        """Tell a producer to put no more for now."""
        self._process.send_signal(signal.SIGUSR1)

    def wait_paused(self) -> None:
        """Return once it says that nothing is on its way any more. Raises `NotReady`."""
        self._hear("paused")

    def go_on(self) -> None:
        """Tell it to put again."""
        self._process.send_signal(signal.SIGUSR2)

    def _hear(self, word: str) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        heard, _, _ = select.select([stdout], [], [], PATIENCE_S)
        if not heard or stdout.readline() != word.encode() + b"\n":
            raise NotReady(f"{self.name} is not {word}: {self.said()}")

    def kill(self) -> None:
        """End it with SIGKILL; it is gone when this returns."""
        self._killed = True
        self._process.kill()
        self._process.wait()
        self._close()

    def freeze(self) -> None:
        """Stop it with SIGSTOP; it stands still when this returns."""
        freeze(self._process.pid)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        self.thaw()
        self._process.terminate()

    def wait_ended(self, timeout_s: float = STOP_S) -> None:
        """Wait for its end, then kill it, which is held against it."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self._late = f"it did not end within {timeout_s:g} s"
        self._close()

    def death(self) -> Died | None:
        """Say how it died, if it did and nobody had killed it."""
        code = self._process.poll()
        if self._late is None and (code is None or self._killed or code == 0):
            return None
        return Died(at=time.monotonic(), actor=self.name, said=f"{self._late or f'exit code {code}'}: {self.said()}")

    def said(self) -> str:
        """Return the end of what it wrote to standard error."""
        return self._stderr.read_text(errors="replace")[-2_000:]

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
