"""What holds of every stored task, as values: each with the filter that finds the tasks of which it does not.

Such a task was changed by hand, by another program, or by a fault of streamq's. `mend` names the move of `moves.repair`
that is safe whatever the reason; without one a person has to decide.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from streamq.core.checkup import Severity
from streamq.core.document import BLOCKED, DELAYED, READY, RUNNING, STATUSES, TERMINAL, WAITING
from streamq.core.moves.fence import HELD, LOCKS
from streamq.core.queries import COUNTS, DATE, NO_ARRAY, NUMBER

LATE_S: Final = 60.0
"""What is due for longer than this is moved by nobody: schedulers are milliseconds late, or seconds in an election."""

REMOVED_S: Final = 300.0
"""The same of what the server removes: it looks once a minute, and takes its time when there is much."""

LONGEST_LEASE_S: Final = 7 * 86_400.0
"""A lease may last a day; one of a transaction twice as long as the server lets that live. Nobody asks for a week."""

Mend = Literal["let_go", "free", "end_lease", "give_place", "tick"]


class Invariant(msgspec.Struct, frozen=True):
    """`broken` matches the tasks of which it does not hold."""

    what: str
    broken: dict[str, Any]
    severity: Severity
    advice: str
    mend: Mend | None = None


def _long_since(field: str, late_s: float = LATE_S) -> dict[str, Any]:
    late = {"$subtract": ["$$NOW", round(late_s * 1000)]}
    return {field: DATE, "$expr": {"$lte": [f"${field}", late]}}


INVARIANTS: Final = (
    Invariant(
        "a task has a status that there is",
        # Rows of members, which have a kind, need no status.
        {"status": {"$nin": list(STATUSES)}, "$or": [{"status": {"$exists": True}}, {"kind": {"$exists": False}}]},
        "error",
        f"nobody moves it: set its status to one of {', '.join(STATUSES)}, or delete it",
    ),
    Invariant(
        "a running task has a claim and a lease",
        {"status": RUNNING, "$or": [{"claim_id": {"$exists": False}}, {"lease_until": {"$not": DATE}}]},
        "error",
        "nobody holds it and nobody takes it back: repair ends its lease, so that it is taken back",
        "end_lease",
    ),
    Invariant(
        "a delayed task has an instant at which it is due",
        {"status": DELAYED, "due_at": {"$not": DATE}},
        "error",
        "it waits for ever: set due_at to a date, or delete it",
    ),
    Invariant(
        "a ready task has its place in the queue",
        {"status": READY, "$or": [{"seq": {"$not": {"$type": "timestamp"}}}, {"priority": {"$not": NUMBER}}]},
        "warning",
        "it is claimed out of order: repair gives it priority 0 if it has none, and the last place if it has none",
        "give_place",
    ),
    Invariant(
        "a ready task can be claimed",
        {
            "status": READY,
            "$or": [
                {"_id": {"$type": "object"}},
                {"queue": {"$not": {"$type": "string"} | NO_ARRAY}},
                {"attempt": {"$not": COUNTS}},
                {"max_attempts": {"$not": NUMBER}},
            ],
        },
        "error",
        "nobody claims it: its id must be no document, its queue a text, max_attempts a number, and attempt one that "
        "counts",
    ),
    Invariant(
        "a ready task names its handler by a text",
        {"status": READY, "task": {"$exists": True}, "$nor": [{"task": {"$type": ["string", "null"]} | NO_ARRAY}]},
        "error",
        "only who claims without handlers claims it: set task to the name of a handler",
    ),
    Invariant(
        "a task has been tried at most as often as it may be",
        {
            "status": {"$in": [READY, DELAYED]},
            "attempt": NUMBER,
            "max_attempts": NUMBER,
            "$expr": {"$gt": ["$attempt", "$max_attempts"]},
        },
        "warning",
        "it is tried once more: set max_attempts or attempt if it should not be",
    ),
    Invariant(
        "a task that has ended holds nothing",
        {"status": {"$in": list(TERMINAL)}, "$or": [{field: {"$exists": True}} for field in (*HELD, *LOCKS)]},
        "error",
        "what it holds keeps others waiting: repair takes it away",
        "let_go",
    ),
    Invariant(
        "a task that waits is held by nobody",
        {"status": {"$in": list(WAITING)}, "$or": [{field: {"$exists": True}} for field in HELD]},
        "error",
        "a slot that it holds is given to nobody: repair takes away what only a running task has",
        "free",
    ),
    Invariant(
        "a blocked task waits for something",
        {
            "status": BLOCKED,
            "$or": [
                {"blocked_by": {"$exists": True}, "blocked_by.0": {"$exists": False}},
                {"blocked_by": {"$elemMatch": {"$not": {"$type": "objectId"}}}},
                {"blocked_by": {"$exists": False}, "group": {"$not": {"$type": "string"}}},
            ],
        },
        "error",
        "nobody moves it: cancel it and put it again",
    ),
    Invariant(
        "a task of a group runs in its turn",
        {
            "status": {"$in": [READY, DELAYED, RUNNING]},
            "group": {"$type": "string"},
            "group_lock": {"$exists": False},
        },
        "warning",
        "it may run beside another of its group: cancel it and put it again if it must not",
    ),
    Invariant(
        "a task that has not ended holds its unique key",
        {
            "status": {"$in": [*WAITING, RUNNING]},
            "unique_key": {"$exists": True},
            "unique_for_s": {"$exists": False},
            "unique_lock": {"$exists": False},
        },
        "warning",
        "another with its key may be put beside it: cancel one of them should there be two",
    ),
    Invariant(
        "a task that has ended says when",
        {"status": {"$in": list(TERMINAL)}, "finished_at": {"$not": DATE}},
        "info",
        "purging by age does not find it: delete it, or purge with older_than_s=0",
    ),
    Invariant(
        "a task that has ended is removed some day",
        {"status": {"$in": list(TERMINAL)}, "remove_at": {"$not": DATE}, "follow_up": {"$exists": False}},
        "info",
        "it stays for ever: purge or delete it when it is not needed any more",
    ),
    Invariant(
        "a task that was not started in time expires",
        {"status": {"$in": list(WAITING)}, "attempt": 0} | _long_since("expires_at"),
        "warning",
        "no scheduler runs: start a worker; repair ends it now",
        "tick",
    ),
    Invariant(
        "a task whose lifetime is over is removed",
        _long_since("lifetime_until", REMOVED_S),
        "warning",
        "neither a scheduler nor the server removes it: start a worker; repair removes it now",
        "tick",
    ),
    Invariant(
        "who waits for a task learns of its end",
        {"status": {"$in": list(TERMINAL)}, "follow_up": {"$exists": True}} | _long_since("finished_at"),
        "warning",
        "no scheduler runs: start a worker; repair tells them now",
        "tick",
    ),
    Invariant(
        "an ended lease is taken back",
        {"status": RUNNING} | _long_since("lease_until"),
        "warning",
        "no scheduler runs: start a worker; repair takes it back now",
        "tick",
    ),
    Invariant(
        "a lease ends within a week",
        {
            "status": RUNNING,
            "lease_until": DATE,
            "$expr": {"$gt": ["$lease_until", {"$add": ["$$NOW", round(LONGEST_LEASE_S * 1000)]}]},
        },
        "warning",
        "nobody takes it back before: set lease_until to a date that has passed if no worker runs it",
    ),
    Invariant(
        "a due task is made ready",
        {"status": DELAYED} | _long_since("due_at"),
        "warning",
        "no scheduler runs: start a worker; repair makes it ready now",
        "tick",
    ),
)
