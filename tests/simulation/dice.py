"""Whatever the runtime throws or reads off a clock comes from the process that does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, cast

import trio
from bson import ObjectId

from streamq.core.moves import recur
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
def loaded(seed: int) -> Iterator[None]:
    """Let the runtime's one place for clocks and dice use those of the simulated processes, and its log be still. The
    ids of what is fired come from `seed`: such a call may arrive when its sender has given it up."""
    place, slots, fired = cast(Any, clock), cast(Any, recur), Random(f"{seed} fired")
    before, ids = (place.random, place.os, place.time), slots.ObjectId
    place.random, place.os, place.time = _Random, _System, _Time
    slots.ObjectId = lambda: ObjectId(fired.randbytes(12))
    quiet, LOGGER.disabled = LOGGER.disabled, True
    try:
        yield
    finally:
        place.random, place.os, place.time = before
        slots.ObjectId = ids
        LOGGER.disabled = quiet
