"""Storing how far tasks are, on the real server."""

from __future__ import annotations

from collections.abc import Sequence

from bson import ObjectId
from pymongo import UpdateOne

from streamq.core.moves import report as move
from streamq.core.moves.fence import fence
from streamq.core.report import Reported
from streamq.store.claiming import not_held
from streamq.store.collections import Tasks
from streamq.store.faults import reading


def report(tasks: Tasks, reports: Sequence[Reported]) -> list[ObjectId]:
    """See `Store.report`. Trips: 1, or 2 when something was lost."""
    claims = [one.claim for one in reports]
    statements = [
        UpdateOne(fence(claim.queue, claim.claim_id, [claim.id]), move.update(one.report, claim.lease_s))
        for one, claim in zip(reports, claims, strict=True)
    ]
    # Repeating a report is harmless, so an unknown outcome is simply tried again.
    with reading("report progress"), tasks.deadline():
        if tasks.durable.bulk_write(statements, ordered=False).matched_count == len(statements):
            return []
        return not_held(tasks, claims)
