"""How far an intake has looked past tasks that are for others: where its next claim begins.

    nothing known ──→ from the head ──past──→ from there ──past──→ … ──→ the end: from the head again, if there was news
                        ↑                        │ news
                        └──── every other time ──┘

What is heard of meanwhile may stand before the place where the look goes on. So while there is news every other claim
begins at the head: the most urgent is not kept waiting by a long look, nor the look by a lot of news.
"""

from __future__ import annotations

from streamq.core.claim import Past
from streamq.store.contract import Claimed


class Ahead:
    """Pure but for what it remembers; one per intake."""

    def __init__(self) -> None:
        self._past: Past | None = None
        self._news = False  # since the last claim from the head, or there was more
        self._missed = False  # something was heard of since the look began
        self._at_head = False  # where the last claim began

    def hear(self) -> None:
        """Note that something may have become ready before the place where the look goes on."""
        self._news = self._missed = True

    def begin(self) -> Past | None:
        """Say where the claim that is sent now begins; None: at the head."""
        self._at_head = self._past is None or (self._news and not self._at_head)
        if self._at_head:
            self._news = False
        if self._past is None:
            self._missed = False
        return None if self._at_head else self._past

    def note(self, claimed: Claimed) -> bool:
        """Note the answer; say whether there is to be a claim whatever else the answer says."""
        if self._at_head:
            self._news = self._news or bool(claimed.claims)
            self._past = self._past or claimed.past
            return self._past is not None
        self._past = claimed.past
        return self._past is not None or self._missed
