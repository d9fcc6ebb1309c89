"""What a program of the run is told, in its first argument."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import msgspec

QUEUE = "chaos"
HANDLER = "job"

LEASE_S: Final = 3.0
"""Of every task of a short round: what a fault leaves is soon taken by others."""

LONG_LEASE_S: Final = 10.0
"""Of a long run: longer than the set needs until a majority writes again after most faults, as the default of 30 s is.
Leases of 3 s ended twice in one such outage (7 s with an isolated primary)."""


class Load(msgspec.Struct, frozen=True):
    """How much is put and what it takes to run."""

    putters: int = 4
    pause_ms: int = 80
    """Between two puts of one putter, on average."""
    burst: int = 60
    """Tasks in a put of many; a second and more apart."""
    burst_pause_ms: int = 1_000
    work_ms: int = 15
    long_ms: int = 1_200
    """What one in twenty takes."""
    long_share: float = 0.05
    lasting_share: float = 0.02
    """What takes longer than a third of its lease, so that it is extended, and says now and then how far it is."""
    once_share: float = 0.1
    """How many have one attempt: they may start once, and are claimed with majority."""
    fails_share: float = 0.1
    """How many fail at their first attempt."""
    delayed_share: float = 0.15
    slots: int = 16
    lease_s: float = LEASE_S


class Orders(msgspec.Struct, frozen=True):
    """For one program."""

    uri: str
    database: str
    log: str
    seed: int
    load: Load = Load()
    mutants: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where it writes its log."""
        return Path(self.log)


def given() -> Orders:
    """Read those of this program."""
    return msgspec.json.decode(sys.argv[1], type=Orders)
