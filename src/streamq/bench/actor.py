"""The child's side of a process of the bench: it plays one function after the other until its parent is gone.

    parent ──play, go, stop──▶ actor ──ready, told, done, failed──▶ parent

Its one connection is its lifeline: an end of file means that the parent is gone, in whatever way, and ends it at once,
whatever its own threads are doing. On Linux the kernel is asked to kill it besides: that needs no thread of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import trio

from streamq.collector import spare_what_is_there

PR_SET_PDEATHSIG = 1
ORPHANED = 1

TELL_S = 0.2
"""How often a process says how far it is: seldom, as it disturbs what is measured."""


class Stage:
    """What a played function is given: how to speak to the parent, and whether to stop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._speaking = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
        self._gone: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.stopped = threading.Event()
        self.until = 0.0  # when what is played must be over, by `time.monotonic`
        self._when_stopped: Callable[[], object] | None = None
        self._told_at = 0.0
        self._last_word: object = None

    def ready(self, value: object = None) -> None:
        """Say that everything is prepared. What is there by now is spared the garbage collector, whoever is measured:
        `streamq worker` does so, too."""
        spare_what_is_there()
        self._say("ready", value)

    def tell(self, value: object) -> None:
        """Say how far it is, unless that was said a moment ago: call it again and again, also while nothing happens.

        The last word is said in any case, when the function has returned.
        """
        self._last_word = value
        now = time.monotonic()
        if now - self._told_at >= TELL_S:
            self._told_at = now
            self._say("told", value)

    def wait_go(self) -> Any:
        """Wait for the parent's word to begin, and return what it gave."""
        return self._gone.get()

    async def gone(self) -> Any:
        """`wait_go`, in trio."""
        return await trio.to_thread.run_sync(self.wait_go)

    @contextlib.contextmanager
    def stopping(self, stop: Callable[[], object]) -> Any:
        """Call `stop` in trio's thread when the parent says so, or has said so."""
        token = trio.lowlevel.current_trio_token()

        def soon() -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(stop)

        self._when_stopped = soon
        if self.stopped.is_set():
            stop()
        try:
            yield
        finally:
            self._when_stopped = None

    def serve(self) -> None:
        """Play what the parent asks for; ends with the process."""
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            path, args = self._jobs.get()
            try:
                result = found(path)(self, *args)
                if self._last_word is not None:
                    self._say("told", self._last_word)
                self._say("done", result)
            except BaseException as error:  # noqa: BLE001 - the parent raises it
                self._say("failed", "".join(traceback.format_exception(error)))

    def _listen(self) -> None:
        try:
            while True:
                match self._connection.recv():
                    case ("play", path, args, until):
                        self.until = until
                        self._told_at, self._last_word = 0.0, None
                        self.stopped.clear()
                        self._gone = queue.SimpleQueue()
                        self._jobs.put((path, args))
                    case ("go", value):
                        self._gone.put(value)
                    case ("stop",):
                        self.stopped.set()
                        if (stop := self._when_stopped) is not None:
                            stop()
        except (EOFError, OSError):
            os._exit(ORPHANED)

    def _say(self, kind: str, value: object) -> None:
        with self._speaking:
            self._connection.send((kind, value))


def found(path: str) -> Callable[..., Any]:
    """Import the function that `module:name` names."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent's main thread, which started it, ends."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it was quicker than the request
        os._exit(ORPHANED)


if __name__ == "__main__":
    die_with(int(sys.argv[2]))
    # The functions that are played import this module by its name; they must meet the same one.
    importlib.import_module("streamq.bench.actor").Stage(Connection(int(sys.argv[1]))).serve()
