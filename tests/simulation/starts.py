"""The starts of tasks of limited queues, in the order of the server: what a limit allows is never passed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from bson import ObjectId

from streamq.core.claim import Claim
from streamq.core.document import DELAYED, READY, RUNNING, TaskDocument
from streamq.store.limiting import key_of
from tests.simulation.plan import Limit, Plan

Wrong = list[tuple[str, str, str]]

ROUNDING_S = 0.002
"""The server's clock has milliseconds: a token may come so much early by the world's."""


class Starts:
    """Of one run. `wrong` is added to."""

    def __init__(self, plan: Plan, documents: Mapping[ObjectId, TaskDocument], wrong: Wrong) -> None:
        self._limits = {limit.queue: limit for limit in plan.limits}
        self._documents = documents
        self._wrong = wrong
        self._at: dict[str, list[float]] = defaultdict(list)

    def see(self, claim: Claim, now: float) -> None:
        """Note a claim that was given just now."""
        limit = self._limits.get(claim.queue)
        if limit is None:
            return
        key = key_of(self._documents[claim.id])
        running, beside = self._running(claim.queue, key)
        self._ask(claim, running, limit.running, "of its queue run")
        if key is not None:
            self._ask(claim, beside, limit.key_running, f"of key {key} run")
        if limit.burst is not None:
            starts = self._at[claim.queue]
            starts.append(now)
            for place, at in enumerate(starts):
                may = limit.burst + (now - at + ROUNDING_S) / limit.token_s
                if len(starts) - place > may:
                    why = f"{len(starts) - place} starts in {now - at:.3f} s"
                    self._wrong.append(("over", str(claim.id), why))

    def _running(self, queue: str, key: str | None) -> tuple[int, int]:
        """Count the tasks of a queue that run, and those of a key among them."""
        running = [one for one in self._documents.values() if one["status"] == RUNNING and one["queue"] == queue]
        return len(running), sum(key_of(one) == key for one in running)

    def _ask(self, claim: Claim, count: int, most: int | None, what: str) -> None:
        if most is not None and count > most:
            self._wrong.append(("over", str(claim.id), f"{count} {what}, {most} may"))

    def may_start(self, document: TaskDocument, now: float) -> bool:
        """Say whether the limits of its queue would let a task start that waits, or is held up."""
        limit = self._limits.get(document["queue"])
        if limit is None:
            return document["status"] == READY
        key = key_of(document)
        running, beside = self._running(document["queue"], key)
        return (
            (limit.running is None or running < limit.running)
            and (limit.key_running is None or key is None or beside < limit.key_running)
            and self._has_token(limit, now)
        )

    def _has_token(self, limit: Limit, now: float) -> bool:
        """Say whether there is a token for sure: of those that were taken some may have been given back since."""
        starts = self._at[limit.queue]
        return limit.burst is None or not starts or now - starts[-1] > 4 * limit.token_s


def is_held_up(document: TaskDocument) -> bool:
    """Say whether a limit of its key keeps a task from its queue's head."""
    return document["status"] == DELAYED and "held_up_by" in document
