"""The runtime's clock and dice: nothing else in it reads a clock or throws dice."""

from __future__ import annotations

import os
import random
import time

import trio


def now() -> float:
    """Return trio's time, in seconds. Clock: monotonic (or a test's)."""
    return trio.current_time()


def thread_now() -> float:
    """Return monotonic time outside of trio, in seconds; comparable only with itself."""
    return time.monotonic()


def chance() -> float:
    """Draw from [0, 1)."""
    return random.random()


def jittered(seconds: float) -> float:
    """Spread a pause: half of it to one and a half of it."""
    return seconds * (0.5 + random.random())


def new_claim_id() -> bytes:
    """Make a claim id: 16 random bytes, made before the call, so that an unknown outcome can be looked for."""
    return os.urandom(16)


def new_name() -> str:
    """Make a short random name (a member, a bell)."""
    return os.urandom(6).hex()
