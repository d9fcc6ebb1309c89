"""The parent's side of the processes of a bench: started, told what to play, waited for up to an instant, never left
behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from streamq.errors import StreamQError

TAIL_S: Final = 1.0
"""How much later than its `until` a process may answer: it has its tasks to give back and its streams to close."""


class BenchFailed(StreamQError):
    """A process of the bench ended or failed; the message is what it said."""


class Late(StreamQError):
    """A process of the bench did not answer in time."""


class Actor:
    """One process. Call it from the main thread: the kernel ends it with the thread that started it."""

    def __init__(self, name: str, until: float) -> None:
        self.name = name
        self._until = until
        self.told: Any = None
        self._ready: list[Any] = []
        self._answers: list[tuple[str, Any]] = []
        self._here, there = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "streamq.bench.actor", str(there.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what it prints must not get among the answer
            pass_fds=(there.fileno(),),
            start_new_session=True,  # Ctrl-C goes to the bench, which ends its processes
        )
        there.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def connection(self) -> Connection:
        """What becomes readable when it says something."""
        return self._here

    def begin(self, function: Callable[..., Any], *args: Any) -> None:
        """Let it play `function(stage, *args)`, which sees by `stage.until` when it must be over."""
        self.told = None
        self._ready.clear()
        self._answers.clear()
        self._send(("play", f"{function.__module__}:{function.__qualname__}", args, self._until))

    def go(self, value: Any = None) -> None:
        """Say that it may begin."""
        self._send(("go", value))

    def stop(self) -> None:
        """Say that it is enough."""
        self._send(("stop",))

    def wait_ready(self) -> Any:
        """Wait until it is prepared. Raises `Late`, `BenchFailed`."""
        while not self._ready and not self._answers:
            self._hear(self._until)
        if not self._ready:
            return self.result()
        return self._ready.pop(0)

    def result(self) -> Any:
        """Wait for what the function returned. Raises `Late`, `BenchFailed`."""
        while not self._answers:
            self._hear(self._until + TAIL_S)
        kind, value = self._answers.pop(0)
        if kind == "failed":
            raise BenchFailed(f"{self.name} failed: {value}")
        return value

    def look(self, timeout_s: float = 0.0) -> bool:
        """Take in what it has said; say whether it has done what it was to play."""
        while not self._answers and self._here.poll(timeout_s):
            self._take()
            timeout_s = 0.0
        return bool(self._answers)

    def kill(self) -> None:
        """End it, and wait for it."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it and let go of it."""
        self.kill()
        self._here.close()

    def _hear(self, until: float) -> None:
        if not self._here.poll(max(0.0, until - time.monotonic())):
            raise Late(f"{self.name} did not answer in time")
        self._take()

    def _take(self) -> None:
        try:
            kind, value = self._here.recv()
        except (EOFError, OSError):
            raise BenchFailed(f"{self.name} ended by itself, exit code {self._process.wait()}") from None
        if kind == "ready":
            self._ready.append(value)
        elif kind == "told":
            self.told = value
        else:
            self._answers.append((kind, value))

    def _send(self, message: tuple[Any, ...]) -> None:
        try:
            self._here.send(message)
        except OSError:
            raise BenchFailed(f"{self.name} ended by itself, exit code {self._process.wait()}") from None


class Cast:
    """All processes of a run, by what they play; each is started once and plays in every round."""

    def __init__(self, until: float) -> None:
        self._until = until
        self._actors: dict[str, Actor] = {}

    def actor(self, name: str) -> Actor:
        """Return the process of that name, starting it if there is none."""
        if name not in self._actors:
            self._actors[name] = Actor(name, self._until)
        return self._actors[name]

    def actors(self, name: str, count: int) -> list[Actor]:
        """Return so many processes."""
        return [self.actor(f"{name} {number}") for number in range(1, count + 1)]

    def dismiss(self, *actors: Actor) -> None:
        """End processes that will not play again."""
        for one in actors:
            self._actors.pop(one.name, None)
            one.close()

    def close(self) -> None:
        """End them all."""
        for one in self._actors.values():
            one._process.kill()
        self.dismiss(*self._actors.values())


def wait_any(actors: Sequence[Actor], timeout_s: float) -> None:
    """Wait until one of them says something."""
    wait([one.connection for one in actors], max(0.0, timeout_s))


def results(actors: Iterable[Actor]) -> list[Any]:
    """Return what each returned, in order."""
    return [one.result() for one in actors]
