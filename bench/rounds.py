"""Rounds in processes of their own: a producer and a consumer, one contender after the other, interleaved."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import streamq.embedded
from bench.place import Place

SPAWN = multiprocessing.get_context("spawn")
PATIENCE_S = 120.0


@contextmanager
def server(uri: str | None) -> Iterator[str]:
    """Yield the URI to measure on: the one given, else an embedded server of the run's own."""
    if uri is not None:
        yield uri
        return
    with streamq.embedded.start() as own:
        yield own.uri


@contextmanager
def place(uri: str) -> Iterator[Place]:
    """Make a database of its own for one round, with streamq's indexes; drop it after."""
    one = Place(uri, f"bench_{os.urandom(4).hex()}")
    one.prepare()
    try:
        yield one
    finally:
        one.drop()


class Role:
    """One process of a round. Its function's result, or error, is fetched by `result`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._receive, send = SPAWN.Pipe(duplex=False)
        self._process = SPAWN.Process(target=_play, args=(send, function, args), daemon=True)
        self._process.start()
        send.close()

    def result(self) -> Any:
        """Wait for the process's end and return what its function returned."""
        try:
            if not self._receive.poll(PATIENCE_S):
                raise TimeoutError("a process of the bench did not end in time")
            result = self._receive.recv()
        finally:
            self.end()
        if isinstance(result, BaseException):
            raise result
        return result

    def end(self) -> None:
        """End the process if it has not ended."""
        self._process.join(1.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _play(send: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        send.send(function(*args))
    except BaseException as error:
        send.send(RuntimeError(repr(error)))
        raise


def wait_ready(ready: Any) -> None:
    """Wait until a consumer says that it is ready."""
    if not ready.wait(PATIENCE_S):
        raise TimeoutError("a consumer of the bench did not get ready in time")
