"""How much of a test is run: little in CI, as much as was promised with `STREAMQ_LONG=1` in the environment."""

from __future__ import annotations

import os
from typing import Final, TypeVar

T = TypeVar("T")

IS_LONG: Final = os.environ.get("STREAMQ_LONG", "") not in ("", "0")


def sized(short: T, long: T) -> T:
    """Choose."""
    return long if IS_LONG else short
