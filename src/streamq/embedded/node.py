"""One mongod of the set: its port, its process, and the hands of the fault tests."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from streamq.embedded.command import HOST
from streamq.embedded.guard import Guard
from streamq.embedded.standstill import stands_still
from streamq.embedded.troubles import FailedStart, explain, is_port_taken
from streamq.errors import EmbeddedError

START_S = 60.0  # chosen freely: 0.5 s is usual, recovery of a large directory after a crash takes longer
POLL_S = 0.005
NO_LOGIN: Mapping[str, Any] = MappingProxyType({})
LISTENING = "Waiting for connections"


class PortTaken(EmbeddedError):
    """Somebody else listens on the port; with a port of our own choice another is tried."""


class Node:
    """A mongod of an `EmbeddedServer`. Its methods may be called from any thread."""

    def __init__(
        self,
        number: int,
        port: int,
        command: Callable[[int], list[str]],
        data: Path,
        log: Path,
        guard: Guard,
        login: Mapping[str, Any] = NO_LOGIN,
        host: str = HOST,
    ) -> None:
        """`login`: by which options of a client the server's own hands are let in; `host`: the address that `command`
        lets it listen on."""
        self.number = number
        self.host = host
        self.login = login
        self.port = port
        self.data = data
        self.log = log
        self._command = command
        self._guard = guard
        self._logged_before = 0

    def __repr__(self) -> str:
        return f"<Node {self.number} on port {self.port}>"

    @property
    def address(self) -> str:
        """By which the other members and clients know it."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id, or None while it does not run."""
        pid, exit_code = self._guard.status(self.number)
        return pid if exit_code is None else None

    def start(self) -> None:
        """Start the mongod, unless it runs, and return when it accepts connections: it need not have a role yet.

        Raises `EmbeddedError` saying what went wrong and what to do.
        """
        if self.pid is not None:
            return
        argv = self._command(self.port)
        self._logged_before = self.log.stat().st_size if self.log.exists() else 0
        try:
            self._guard.spawn(self.number, argv, self.log)
        except EmbeddedError as error:
            raise EmbeddedError(f"{error}\nCheck the program {argv[0]}, or let STREAMQ_MONGOD name another.") from None
        self._wait_listens()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash does; it is gone when this returns. `start` brings it back."""
        self._guard.signal(self.number, signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end with SIGTERM, and wait until it has (about 1 s)."""
        self._guard.signal(self.number, signal.SIGTERM)
        deadline = time.monotonic() + START_S
        while self.pid is not None:
            if time.monotonic() > deadline:
                raise EmbeddedError(f"mongod on port {self.port} did not end within {START_S:g} s\nUse kill().")
            time.sleep(POLL_S)

    def suspend(self) -> None:
        """Freeze it with SIGSTOP: its connections stay open and nothing answers. None of it runs when this returns (on
        Linux; elsewhere it stops soon after)."""
        self._guard.signal(self.number, signal.SIGSTOP)
        deadline = time.monotonic() + START_S
        while (pid := self.pid) is not None and not stands_still(pid):
            if time.monotonic() > deadline:
                raise EmbeddedError(f"mongod on port {self.port} did not stop within {START_S:g} s\nUse kill().")
            time.sleep(POLL_S)

    def resume(self) -> None:
        """Let it go on after `suspend`."""
        self._guard.signal(self.number, signal.SIGCONT)

    def failure(self, otherwise: str = "") -> EmbeddedError:
        """Return the error that explains why it does not work, by what it logged since its last start."""
        _, exit_code = self._guard.status(self.number)
        failed = FailedStart(
            mongod=Path(self._command(self.port)[0]),
            data=self.data,
            log=_read_from(self.log, self._logged_before),
            exit_code=exit_code,
            port=self.port,
            free_bytes=shutil.disk_usage(self.data).free,
        )
        return (PortTaken if is_port_taken(failed) else EmbeddedError)(explain(failed, otherwise))

    def _wait_listens(self) -> None:
        deadline = time.monotonic() + START_S
        # Its own word for it: a connection would be accepted by whoever listens there.
        while LISTENING not in _read_from(self.log, self._logged_before):
            if self.pid is None or time.monotonic() > deadline:
                raise self.failure()
            time.sleep(POLL_S)


def _read_from(log: Path, offset: int) -> str:
    """Return what was logged since `offset`, the first and last part of much: a loop of complaints may be long."""
    limit = 1 << 20
    with log.open("rb") as file:
        file.seek(offset)
        text = file.read(limit)
        if len(text) == limit:
            file.seek(max(file.tell(), os.fstat(file.fileno()).st_size - limit))
            text += file.read(limit)
    return text.decode(errors="replace")
