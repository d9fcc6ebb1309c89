"""Who is alive, on the books of the store in memory."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import msgspec

from streamq.core.document import READY, RUNNING
from streamq.core.member import Member, Roster
from streamq.core.unclaimed import Unclaimed, unclaimed_of
from streamq.core.wake import Wake
from streamq.core.workers import WorkerView, workers_of
from streamq.store.memory_books import MemoryBooks


def beat(books: MemoryBooks, member: Member) -> Roster:
    """See `Store.beat`: everyone here is alive."""
    before = books.members.get(member.row_id)
    if before is None or before.lease_s != member.lease_s:
        for feed in books.feeds:
            if feed.interest.timers:
                came, serves = ("", None) if before else (member.row_id, member.serves)
                feed.tell(Wake("member", lease_s=member.lease_s, member=came, serves=serves))
    books.members[member.row_id] = member
    now = books.instant()
    books.beats[member.row_id] = (books.beats.get(member.row_id, (now, now))[0], now)
    workers = sorted(id for id, one in books.members.items() if one.queues)
    rank = workers.index(member.row_id) if member.row_id in workers else len(workers)
    others = tuple((id, one.serves) for id, one in books.members.items() if id != member.row_id)
    return Roster(rank, min(one.lease_s for one in books.members.values()), others)


def leave(books: MemoryBooks, member: Member) -> None:
    """See `Store.leave`."""
    books.members.pop(member.row_id, None)
    books.beats.pop(member.row_id, None)


def workers(books: MemoryBooks) -> list[WorkerView]:
    """See `Store.workers`."""
    now = books.instant()
    rows = []
    for id in sorted(books.members):
        member, (started_at, beat_at) = books.members[id], books.beats[id]
        row = msgspec.structs.asdict(member) | {"_id": id, "started_at": started_at}
        row["worker"] = member.worker or member.id
        rows.append(row | {"age_ms": (now - beat_at) / timedelta(milliseconds=1)})
    holders = Counter(one["worker"] for one in books.documents.values() if one["status"] == RUNNING)
    return workers_of(rows, [{"_id": name, "count": count} for name, count in holders.items()])


def unclaimed(books: MemoryBooks) -> list[Unclaimed]:
    """See `Store.unclaimed`."""
    ready = Counter((one["queue"], one["task"]) for one in books.documents.values() if one["status"] == READY)
    served = [one for member in books.members.values() for one in member.serves]
    return unclaimed_of(served, [(queue, task, count) for (queue, task), count in ready.items()])
