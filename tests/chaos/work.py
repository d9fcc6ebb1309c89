"""What the tasks of a run are: decided by the producer, stored in the payload."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from bson import ObjectId

from tests.chaos.orders import Load


class Job(msgspec.Struct, frozen=True):
    """One payload. `mark` is the task's own id: a payload in the wrong place, or half of one, tells."""

    mark: str
    work_ms: int = 0
    fails: bool = False


def drawn(id: ObjectId, load: Load, dice: Random) -> Job:
    """Draw what a task takes to run."""
    is_long = dice.random() < load.long_share
    work_ms = load.long_ms if is_long else round(dice.random() * 2 * load.work_ms)
    return Job(str(id), work_ms, dice.random() < load.fails_share)


def delay_s(load: Load, dice: Random) -> float:
    """Draw how long a task is put off: mostly not at all."""
    return dice.random() if dice.random() < load.delayed_share else 0.0


def job_of(payload: Any) -> Job:
    """Read a payload that was claimed bare: of a handler's task the arguments by name."""
    return msgspec.convert(payload, Job)
