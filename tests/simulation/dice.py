"""Whatever the runtime throws or reads off a clock comes from the process that does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import trio

from streamq.runtime import clock
from streamq.runtime.journal import LOGGER
from tests.simulation.loop import Loop


def _dice() -> Random:
    assert Loop.here is not None, "outside of any process"
    return Loop.here.dice


class _Random:
    @staticmethod
    def random() -> float:
        return _dice().random()


class _System:
    @staticmethod
    def urandom(count: int) -> bytes:
        return _dice().randbytes(count)


class _Time:
    monotonic = staticmethod(trio.current_time)


@contextmanager
def loaded() -> Iterator[None]:
    """Let the runtime's one place for clocks and dice use those of the simulated processes, and its log be still."""
    place: Any = clock
    before = place.random, place.os, place.time
    place.random, place.os, place.time = _Random, _System, _Time
    quiet, LOGGER.disabled = LOGGER.disabled, True
    try:
        yield
    finally:
        place.random, place.os, place.time = before
        LOGGER.disabled = quiet
