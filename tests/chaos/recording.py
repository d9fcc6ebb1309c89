"""The real store, which writes down what it is asked and answers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bson import ObjectId

from streamq.core.claim import Ask, Claim
from streamq.core.report import Reported
from streamq.core.settlement import Settlement, Verdict
from streamq.store.contract import Claimed, Renewed, Taking
from streamq.store.mongo import MongoStore
from tests.chaos import event
from tests.chaos.history import Pen


class RecordingStore(MongoStore):
    """Set `pen` before it is used. What raises has no known outcome and is not written down."""

    pen: Pen

    def claim(self, ask: Ask, taking: Taking | None = None) -> Claimed:
        """Claim, and note which."""
        sent_at = time.monotonic()
        claimed = super().claim(ask, taking)
        if claimed.claims:
            ids = [str(one.id) for one in claimed.claims]
            self.pen.write(event.Claimed(at=time.monotonic(), sent_at=sent_at, claim=ask.claim_id.hex(), ids=ids))
        return claimed

    def settle(self, settlements: Sequence[Settlement]) -> list[Verdict]:
        """Settle, and note the verdicts."""
        sent_at = time.monotonic()
        verdicts = super().settle(settlements)
        at = time.monotonic()
        for one, verdict in zip(settlements, verdicts, strict=True):
            self.pen.write(
                event.Settled(
                    at=at,
                    sent_at=sent_at,
                    id=str(one.id),
                    claim=one.claim_id.hex(),
                    move=one.move,
                    verdict=verdict,
                )
            )
        return verdicts

    def extend(self, claims: Sequence[Claim]) -> list[ObjectId]:
        """Extend, and note which were."""
        sent_at = time.monotonic()
        lost = super().extend(claims)
        self._kept("extend", sent_at, claims, lost)
        return lost

    def renew(self, claim: Claim) -> Renewed:
        """Extend one, and note whether it was."""
        sent_at = time.monotonic()
        renewed = super().renew(claim)
        self._kept("renew", sent_at, [claim], [claim.id] if renewed == "lost" else [])
        return renewed

    def report(self, reports: Sequence[Reported]) -> list[ObjectId]:
        """Store progress, and note of which."""
        sent_at = time.monotonic()
        lost = super().report(reports)
        self._kept("progress", sent_at, [one.claim for one in reports], lost)
        return lost

    def _kept(self, by: str, sent_at: float, claims: Sequence[Claim], lost: Sequence[ObjectId]) -> None:
        held = [(str(one.id), one.claim_id.hex()) for one in claims if one.id not in lost]
        if held:
            self.pen.write(event.Kept(at=time.monotonic(), sent_at=sent_at, by=by, held=held))
