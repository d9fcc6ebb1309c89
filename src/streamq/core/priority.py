"""Names for the usual priorities."""

from __future__ import annotations

import enum


class Priority(enum.IntEnum):
    """Priorities by name. Any int of 32 bits is a priority; these leave room around them.

    Stored as plain ints: -100, 0 and 100. MEDIUM is what a task has that says nothing.
    """

    LOW = -100
    MEDIUM = 0
    HIGH = 100
