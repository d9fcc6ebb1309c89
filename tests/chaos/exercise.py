"""What a round has in fact put to the test. Pure: a check of what never happened would find nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from tests.chaos.event import Acked, AnyEvent, Began, Kept, TaskId


class Exercise(msgspec.Struct, frozen=True):
    """Of one round: tasks whose puts were acknowledged; writes of holders that took effect, each task counted; tasks
    with one attempt that were begun."""

    acked: int = 0
    extended: int = 0
    reported: int = 0
    once: int = 0

    @property
    def lacks(self) -> list[str]:
        """Name what did not happen, and is judged all the same; `once`: no task with one attempt was begun."""
        return [name for name, count in msgspec.structs.asdict(self).items() if not count]

    def __str__(self) -> str:
        return f"extensions {self.extended:,}, progress {self.reported:,}, with one attempt {self.once:,}"


def exercised(history: Iterable[AnyEvent]) -> Exercise:
    """Count what a round has done by its own events."""
    acked: set[TaskId] = set()
    once: set[TaskId] = set()
    kept: Counter[str] = Counter()
    for one in history:
        match one:
            case Acked(ids=ids):
                acked.update(ids)
            case Kept(by=by, held=held):
                kept[by] += len(held)
            case Began(once=True, id=id):
                once.add(id)
            case _:
                pass
    return Exercise(len(acked), kept["extend"] + kept["renew"], kept["progress"], len(once))
