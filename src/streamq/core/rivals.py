"""Other processes at the head of the same queue: whether claims meet them there, and how long to stand back then.

All who look at the head at the same time find the same tasks. One of them obtains most, the others a few each and have
asked the server for all; and as all are through at about the same time, they meet again. So whoever has lost much of
what it found waits for a random part of the time that a claim takes, and for more of it each time that this happens
again, as those do who speak on one wire. Nobody passes over the head: the order of claims is as it was.
"""

from __future__ import annotations

from typing import Final

MOST_TIMES: Final = 4
"""Races lost in a row that count: eight times as long as a claim takes. Chosen by a simulation of 2 to 8 processes
(docs/measurements.md): more left the server idle, less made claims meet."""

MOST_S: Final = 1.0
"""The longest wait: by then all that was claimed has surely been run."""


FEW: Final = 32
"""Of claims that found fewer nothing follows: that race is over before a wait would be."""


class Rivals:
    """What the last claims of one queue came to. Pure: chance is an argument."""

    def __init__(self) -> None:
        self._times = 0
        self._lost = False

    def note(self, obtained: int, lost: int) -> None:
        """Note a claim from the head: how many tasks it obtained of those that it found, and how many it did not."""
        self._lost = obtained + lost >= FEW and 2 * lost > obtained
        self._times = min(self._times + 1, MOST_TIMES) if self._lost else max(0, self._times - 1)

    @property
    def are_there(self) -> bool:
        """Say whether others were met lately."""
        return self._times > 0

    def wait_s(self, u: float, claim_s: float) -> float:
        """Return how long to wait before the next claim; 0 unless the last one, which took `claim_s`, lost much. `u`
        is drawn from [0, 1)."""
        return min(MOST_S, u * claim_s * 2 ** (self._times - 1)) if self._lost else 0.0
