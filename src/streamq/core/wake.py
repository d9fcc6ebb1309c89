"""A wake: a hint from the stream that something may be claimable. It carries no duty."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from bson import ObjectId

WakeKind = Literal[
    "ready", "delayed", "settled", "follow_up", "cancel", "pause", "resume", "member", "schedule", "bell"
]


class Wake(msgspec.Struct, frozen=True):
    """What one event said.

    - `ready`: task `id` of `queue` may be claimed; `task` is its handler's name and `durable` whether it must
      be claimed with majority, both known for new tasks only (`is_new`); `is_plain` ones are as most are
      (`claim.is_plain_new`).
    - `delayed`: a task becomes due in `due_in_s` seconds (counted from the event).
    - both: `look_in_s`, where given, is when the scheduler has to see to it besides (it expires, or its life ends).
    - `settled`: task `id`, for whose result this process waits, has ended.
    - `cancel`: somebody wants task `id` cancelled, which this process holds or held.
    - `follow_up`: what waits for task `id`, or what it waits for itself, is to be looked at. A task's end may say this
      besides (`follow_up` is True then).
    - `pause`, `resume`: no task of `queue` is to begin, or may again.
    - `member`: a worker came (`member` is its row's id, `serves` what the row says that it serves) or uses another
      lease; `lease_s` is its shortest.
    - `schedule`: a schedule may fire sooner than was known.
    - `bell`: the process's own request to stop reading.

    Besides, whatever it is: `freed_in` names a queue that all are to look at: a slot under a limit is free again, or
    many tasks were released of which the stream tells nothing else.
    """

    kind: WakeKind
    id: ObjectId | None = None
    queue: str = ""
    task: str | None = None
    is_new: bool = False
    durable: bool = False
    is_plain: bool = False
    due_in_s: float = 0.0
    look_in_s: float | None = None
    lease_s: float = 0.0
    member: str = ""
    serves: Any = None
    freed_in: str = ""
    follow_up: bool = False

    @property
    def says_no_more(self) -> bool:
        """Say whether all it says is that the task may be claimed."""
        return self.kind == "ready" and self.look_in_s is None and not self.freed_in and not self.follow_up
