"""What the tasks of a run are: decided by the producer, stored in the payload."""

from __future__ import annotations

from random import Random
from typing import Any, Final

import msgspec
from bson import ObjectId

from tests.chaos.orders import Load

LASTING: Final = (0.4, 1.2)
"""In leases: some would end before they are through."""

REPORTS: Final = (2, 4)
"""So many that a holder who extends only when it reports never lets half of a lease go by."""


class Job(msgspec.Struct, frozen=True):
    """One payload. `mark` is the task's own id: a payload in the wrong place, or half of one, tells. `reports` says how
    often it says how far it is, in equal parts of its work. What runs `once` has one attempt."""

    mark: str
    work_ms: int = 0
    fails: bool = False
    reports: int = 0
    once: bool = False

    @property
    def part_s(self) -> float:
        """How long it works before each report, and after the last one."""
        return self.work_ms / 1000 / (self.reports + 1)


def drawn(id: ObjectId, load: Load, dice: Random) -> Job:
    """Draw what a task takes to run."""
    fails = dice.random() < load.fails_share
    once = dice.random() < load.once_share
    if dice.random() < load.lasting_share:
        lasting_ms = round(dice.uniform(*LASTING) * load.lease_s * 1000)
        return Job(str(id), lasting_ms, fails, dice.randint(*REPORTS), once)
    is_long = dice.random() < load.long_share
    work_ms = load.long_ms if is_long else round(dice.random() * 2 * load.work_ms)
    return Job(str(id), work_ms, fails, once=once)


def delay_s(load: Load, dice: Random) -> float:
    """Draw how long a task is put off: mostly not at all."""
    return dice.random() if dice.random() < load.delayed_share else 0.0


def job_of(payload: Any) -> Job:
    """Read a payload that was claimed bare: of a handler's task the arguments by name."""
    return msgspec.convert(payload, Job)
