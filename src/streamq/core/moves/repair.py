"""Repair: what a check may write on tasks of which an invariant does not hold. No move of the road: no status changes.

Each is guarded by the invariant's own filter, so that a task which was put right meanwhile is left alone.
"""

from __future__ import annotations

from typing import Any, Final

from streamq.core.invariants import Mend
from streamq.core.moves.fence import HELD, LOCKS
from streamq.core.queries import NUMBER

UPDATES: Final[dict[Mend, list[tuple[dict[str, Any], Any]]]] = {
    "let_go": [({}, [{"$unset": [*HELD, *LOCKS]}])],
    "free": [({}, [{"$unset": list(HELD)}])],
    # The scheduler then takes it back as it does any other: to its place, or failed if that was its last attempt.
    "end_lease": [({}, [{"$set": {"lease_until": "$$NOW"}}])],
    "give_place": [
        ({"priority": {"$not": NUMBER}}, [{"$set": {"priority": 0}}]),
        # By the classic operator: a pipeline cannot make a timestamp.
        ({"seq": {"$not": {"$type": "timestamp"}}}, {"$currentDate": {"seq": {"$type": "timestamp"}}}),
    ],
    "tick": [],
}
"""What each mend writes: pairs of a further filter and an update."""

DID: Final[dict[Mend, str]] = {
    "let_go": "took away what {count} held",
    "free": "took away what {count} held",
    "end_lease": "ended the leases of {count}, and took them back",
    "give_place": "gave {count} a place",
    "tick": "moved what was due",
}
