"""What the checker says."""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal

import msgspec

from tests.chaos.event import TaskId

Kind = Literal["lost", "phantom", "torn", "stale", "unrun", "twice", "died"]
"""What must never be.

- `lost`: acknowledged and not stored; or stored and not ended after the drain, acknowledged or not.
- `phantom`: run or stored though it was never put, or though each of its puts said that nothing was stored.
- `torn`: stored in part.
- `stale`: a write of a holder took effect though another claim had been given since; two ends of one task.
- `unrun`: succeeded by a claim under which nobody ever began it.
- `twice`: a task with one attempt was begun more than once.
- `died`: a program of the run that nobody had killed.
"""

SHOWN: Final = 20


class Violation(msgspec.Struct, frozen=True):
    """One thing that must never be. `id` is the task's, or the name of what died."""

    kind: Kind
    id: TaskId
    why: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id}: {self.why}"


class Findings(msgspec.Struct, frozen=True):
    """Of one run.

    `duplicated` says how many times more than due a task was begun; `given_up` how many tasks with one attempt ended
    with its lease; `unexcused` how many of both no fault explains. `failed` are the others that failed, though
    what they do did not ask for that in their last attempt; `recovered` ended though their puts were not acknowledged.
    """

    tried: int = 0
    acked: int = 0
    refused: int = 0
    unknown: int = 0
    ended: int = 0
    failed: int = 0
    given_up: int = 0
    violations: tuple[Violation, ...] = ()
    duplicated: dict[TaskId, int] = {}
    unexcused: dict[TaskId, int] = {}
    recovered: tuple[TaskId, ...] = ()
    audited: bool = True

    @property
    def counts(self) -> Counter[str]:
        """Violations by kind."""
        return Counter(one.kind for one in self.violations)

    def __str__(self) -> str:
        shown = [str(one) for one in self.violations[:SHOWN]]
        more = len(self.violations) - len(shown)
        return "\n".join([*shown, *([f"… and {more} more"] if more > 0 else [])]) or "nothing"
