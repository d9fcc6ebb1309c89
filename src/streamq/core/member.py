"""A member: the row of one process that watches the collection (a worker, or one that waits for results).

The row lives in the tasks collection, so that the stream hears of it; `kind` and the missing `status` keep it
out of every partial index and listing, and its string `_id` apart from the tasks' ObjectIds, so that the few
members are found by a range of the `_id` index.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from streamq.core.claim import is_number

MEMBER: Final = "member"
PREFIX: Final = "member:"

BEAT_S: Final = 15.0
"""How often a member says that it lives: rare enough to leave an idle worker almost silent on the wire. Only
standing by and listings depend on it; leases are extended on their own beat."""

MOST_BEATS_PER_S: Final = 2.0
"""Of all members together: each beat is looked at by the stream of each, so that they cost the server the square of
their number (`docs/measurements.md`, many idle processes). The more there are, the less it matters that one is dead."""

MOST_BEAT_S: Final = 120.0
ALIVE_BEATS: Final = 2.5

FORGOTTEN_S: Final = 86_400.0
"""After a day the row of a member that never said good-bye is removed."""


STAND_BY_S: Final = 0.05
MOST_STAND_BY_S: Final = 1.0
"""How long the second in rank leaves to the first what both see to, and how long the last leaves it to the others."""


class Member(msgspec.Struct, frozen=True):
    """One process. `queues` is empty for a process that only waits for results."""

    id: str
    host: str
    pid: int
    queues: tuple[str, ...]
    slots: int
    lease_s: float  # the shortest lease it uses
    worker: str | None = None  # what it writes on the tasks it claims; None: its id
    serves: tuple[dict[str, Any], ...] = ()  # which handlers (`only`; absent: any) of which `queue` it claims
    beat_s: float = BEAT_S  # until it beats again

    @property
    def row_id(self) -> str:
        """The `_id` of its row."""
        return PREFIX + self.id


def beat_s(members: int) -> float:
    """Return how often each of so many says that it lives."""
    return min(max(BEAT_S, members / MOST_BEATS_PER_S), MOST_BEAT_S)


def alive_s(row: Mapping[str, Any]) -> float:
    """Return how long after its last beat a member is counted on: two and a half times what its row says that it takes
    from one to the next."""
    said: Any = row.get("beat_s")
    return ALIVE_BEATS * (min(said, MOST_BEAT_S) if is_number(said) and said > 0 else BEAT_S)


class Roster(msgspec.Struct, frozen=True):
    """Who else is there, as of the last beat.

    `rank` is this member's place among the live workers (0 acts at once, the k-th stands by); `lease_s` the
    shortest lease any live member uses: who has no queues may claim too.
    """

    rank: int
    lease_s: float
    others: tuple[tuple[str, Any], ...] = ()
    """The row ids of the other live members, each with what its row says that it serves."""

    @property
    def stand_by_s(self) -> float:
        """How long this member leaves to those before it what any of them would do."""
        return min(self.rank * STAND_BY_S, MOST_STAND_BY_S)


ROWS: Final[dict[str, Any]] = {"_id": {"$gte": PREFIX, "$lt": "member;"}}
"""The filter that finds all members by a range of the `_id` index (`;` follows `:`)."""


def beat_update(member: Member) -> list[dict[str, Any]]:
    """Build the upsert by which a member says that it lives; `beat_at` is the server's clock."""
    fields = {
        "kind": MEMBER,
        "host": {"$literal": member.host},
        "pid": member.pid,
        "queues": {"$literal": list(member.queues)},
        "slots": member.slots,
        "lease_s": member.lease_s,
        "beat_at": "$$NOW",
        "beat_s": member.beat_s,
        "started_at": {"$ifNull": ["$started_at", "$$NOW"]},
    }
    if member.serves:
        fields["serves"] = {"$literal": list(member.serves)}
    if member.worker is not None:
        fields["worker"] = {"$literal": member.worker}
    return [{"$set": fields}]


def roster_of(rows: Iterable[Mapping[str, Any]], me: Member, now: datetime) -> Roster:
    """Work out this member's rank and the shortest lease of any live member; `now` is the server's."""
    alive = [row for row in rows if "beat_at" in row and (now - row["beat_at"]).total_seconds() < alive_s(row)]
    ids = sorted(row["_id"] for row in alive if row.get("queues"))
    rank = ids.index(me.row_id) if me.row_id in ids else len(ids)
    others = tuple((row["_id"], row.get("serves")) for row in alive if row["_id"] != me.row_id)
    return Roster(rank=rank, lease_s=min([me.lease_s, *(row["lease_s"] for row in alive)]), others=others)
