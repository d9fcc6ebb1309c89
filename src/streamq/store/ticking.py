"""The scheduler's look at the collection: take back what has ended, release what is due unless that is left to
`releasing`, say when to look again."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from bson import ObjectId

from streamq.core import queries
from streamq.core.features import named as features_named
from streamq.core.moves import expire, free, release_due, take_back
from streamq.errors import AccessRefused
from streamq.store import dead_letters
from streamq.store.collections import Document, Tasks
from streamq.store.contract import Refused, Tick
from streamq.store.faults import reading, rereading
from streamq.store.following import REMOVED, Followed, follow_up, mark_followers
from streamq.store.moving import MOST_A_TICK, lasting, move, named, pause_s

NOT_YET_S: Final = 1.0
"""When to try again to make indexes for which the server had not the time."""

ENDED: Final[dict[str, Any]] = {
    **dict.fromkeys(("queue", "cancel_to", "attempt", "max_attempts", "started_at", "lease_until", "total_until"), 1),
    "is_last": take_back.IS_LAST,
}
"""What is read of a task whose lease has ended: how it leaves."""


@rereading
def tick(tasks: Tasks, *, releases: bool = True) -> Tick:
    """See `Store.tick`. Trips: 1 when nothing is due; 2 more for each kind of what is, 3 for ended leases, 4 or more
    for tasks that others wait for.

    All of it is idempotent: many schedulers may run, and a lost reply only means to look again.
    """
    with reading("look for due tasks"):
        denied: list[Refused] = []
        ahead = _outlook(tasks, denied)
        due_s = None if releases else ahead.pop("due", None)
        due = {kind for kind, in_s in ahead.items() if in_s <= 0}
        released: list[tuple[ObjectId, str]] = []
        refused: list[Refused] = []
        failed = 0
        removed = _remove(tasks) if "lifetime" in due else 0
        expired = _expire(tasks, refused) if "expiry" in due else 0
        if "due" in due:
            released += _release(tasks, refused)
        if "lease" in due:
            back, failed = _take_back(tasks, refused)
            released += back
        # What has just ended by time may have followers too; what is due has not ended.
        followed = follow_up(tasks, refused) if due - {"due"} and _has_followers(tasks) else Followed()
        released += followed.released
    soonest = [*ahead.values(), *([0.0] if followed.found else [])]  # more may be marked, and followers be followed
    moved = bool(released or failed or followed.done or expired or removed)
    next_s = max(pause_s(refused, moved=moved), min(soonest)) if soonest else None
    return Tick(
        tuple(released),
        failed,
        next_s,
        (*denied, *lasting(refused)),
        followed=followed.done,
        expired=expired,
        removed=removed,
        due_s=None if due_s is None else max(0.0, due_s),
    )


def _outlook(tasks: Tasks, denied: list[Refused]) -> dict[str, float]:
    """Tell of what there is to be seen to in how many seconds. A feature that has come into use since the last look is
    given its indexes here; one that this user may not make indexes for is left to others and told of, once; one for
    which the server had not the time is left to a look soon."""
    dead = None if tasks.dead is None else tasks.dead.quick.name
    in_time = True
    while True:
        made = tasks.features.made()
        with tasks.deadline():
            stages = queries.outlook(tasks.quick.name, made, dead, tasks.features.in_use.name)
            rows = list(tasks.quick.aggregate(stages))
        new = features_named(row["feature"] for row in rows if "feature" in row) - made - tasks.features.denied
        if not new or not in_time:
            ahead = {row["of"]: float(row["in_ms"]) / 1000 for row in rows if "of" in row}
            return ahead if in_time else ahead | {"features": NOT_YET_S}
        try:
            in_time = tasks.features.make(new)
        except AccessRefused as error:
            denied.append(Refused("indexes of " + ", ".join(sorted(new)), str(error)))


def _has_followers(tasks: Tasks) -> bool:
    return "followers" in tasks.features.made()


def _release(tasks: Tasks, refused: list[Refused]) -> list[tuple[ObjectId, str]]:
    with tasks.deadline():
        due = list(tasks.quick.find(queries.due(), {"queue": 1}).sort("due_at", 1).limit(MOST_A_TICK))
        move(tasks.durable, queries.due(), release_due.update(), [document["_id"] for document in due], refused)
    return named(due, refused)


def _expire(tasks: Tasks, refused: list[Refused]) -> int:
    with tasks.deadline():
        over = tasks.quick.find(queries.expired(), {"_id": 1}).sort("expires_at", 1).limit(MOST_A_TICK)
        return move(tasks.durable, queries.expired(), expire.update(), [document["_id"] for document in over], refused)


def _remove(tasks: Tasks) -> int:
    with tasks.deadline():
        wanted = queries.outlived() | queries.SEEN_TO
        found = tasks.quick.find(wanted, REMOVED)
        outlived = list(found.sort("lifetime_until", 1).limit(MOST_A_TICK))
        over = wanted | {"_id": {"$in": [document["_id"] for document in outlived]}}
        tasks.durable.update_many(over | free.HAS_SLOT, free.update())
        count = tasks.durable.delete_many(over).deleted_count
        mark_followers(tasks, outlived)
    return count


def _take_back(tasks: Tasks, refused: list[Refused]) -> tuple[list[tuple[ObjectId, str]], int]:
    with tasks.deadline():
        ended = list(tasks.quick.find(queries.lease_ended(), ENDED).sort("lease_until", 1).limit(MOST_A_TICK))
        again = [one for one in ended if not one["is_last"] and "cancel_to" not in one]
        last = [one for one in ended if one["is_last"] and "cancel_to" not in one]
        apart: dict[float, list[Document]] = defaultdict(list)
        for one in again:
            apart[take_back.put_off_s(one)].append(one)
        at_once = apart.pop(0.0, [])
        _apply(tasks, "take_back", at_once, refused)
        for delay_s, documents in apart.items():
            _apply(tasks, "take_back_later", documents, refused, delay_s)
        ids = [document["_id"] for document in last]
        failed = dead_letters.fail(tasks, *_how("take_back_last"), ids, refused) if ids else 0
        _apply(tasks, "cancel", [one for one in ended if "cancel_to" in one], refused)
    return named(at_once, refused), failed


def _apply(
    tasks: Tasks, how: take_back.TakeBack, documents: list[Document], refused: list[Refused], delay_s: float = 0.0
) -> int:
    ids = [document["_id"] for document in documents]
    return move(tasks.durable, *_how(how, delay_s), ids, refused) if ids else 0


def _how(how: take_back.TakeBack, delay_s: float = 0.0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return take_back.guard(how), take_back.update(how, delay_s)
