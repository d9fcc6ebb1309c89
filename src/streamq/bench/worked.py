"""What the processes of a run bring back: plain values that travel. Instants are in ns of the monotonic clock, 0 where
something did not happen."""

from __future__ import annotations

import msgspec

PutRow = tuple[int, int, int]
"""Of one put: when it was intended, when it was called, when it was acknowledged. Its place in the list is the task's
number."""

RunRow = tuple[int, int, int, int]
"""Of one task: its number, when its event was read, when its claim was answered, when its handler's first line ran."""


class Put(msgspec.Struct):
    """What a producer did."""

    began_at: int = 0
    ended_at: int = 0
    count: int = 0
    rows: list[PutRow] = []


class Worked(msgspec.Struct):
    """What a consumer did. `empty_calls` are claims that obtained nothing; `claim_ns` is the time spent in claims."""

    settled: int = 0
    first_claim_at: int = 0
    last_claim_at: int = 0
    last_settled_at: int = 0
    claim_calls: int = 0
    empty_calls: int = 0
    claimed: int = 0
    empty_at: list[int] = []
    claim_ns: int = 0
    streams: int = 0
    most_threads: int = 0
    rows: list[RunRow] = []
    released: list[tuple[int, int]] = []  # when due tasks had left `delayed`, and how many

    def note_claim(self, began_at: int, ended_at: int, obtained: int) -> None:
        """Count one claim call."""
        self.first_claim_at = self.first_claim_at or began_at
        self.last_claim_at = ended_at
        self.claim_calls += 1
        if not obtained:
            self.empty_calls += 1
            self.empty_at.append(ended_at)
        self.claimed += obtained
        self.claim_ns += ended_at - began_at

    def note_settled(self, at: int, count: int) -> None:
        """Count settled tasks."""
        self.last_settled_at = at
        self.settled += count
