"""What follows the end of a task, on the real server: its children learn of it, the next of its group
takes its turn.

    a terminal move ── mark on the ended task ──┐
    a put of a child ── mark on the child ──────┤
    a removal ── mark on the children ──────────┼→ tick → children unblocked → mark taken off, retention begins
    a sweep, now and then ──────────────────────┘

The mark is written by the very update that ends the task, so a settler that dies right after it loses nothing; any
scheduler sees to the children. It is taken off last: a step that is done twice finds nothing to do. A task that is
moved to the dead letters at its end takes its mark with it.

A child and its parent may be written at the same time. The put marks its parents (`has_children`) before it stores the
child, and the child is stored with a mark of its own. If a parent ends before the child is there to be found, the
look at the child finds the parent ended; if it ends later, it has been marked and its end finds the child. There is no
third case, also when the child becomes visible only at the commit of a transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from bson import ObjectId

from streamq.core import queries
from streamq.core.claim import is_number
from streamq.core.document import BLOCKED, READY, TERMINAL
from streamq.core.moves import mark, retain, unblock
from streamq.core.parents import GONE, Ends, told
from streamq.core.retry import MAX_DELAY_S
from streamq.store import dead_letters
from streamq.store.collections import Document, Tasks
from streamq.store.contract import Refused, Tick
from streamq.store.faults import reading
from streamq.store.grouping import groups_of, promote
from streamq.store.moving import IN_THE_WAY, lasting, move, named

MOST_MARKS: Final = 200
"""Marked tasks in one step. Each update carries their ids and compares them with what each child awaits."""

MOST_CHILDREN: Final = 1_000
"""Children moved in one step."""

MOST_AWAITED: Final = 5_000
"""Parents looked up in one step (of a single child: all)."""

MOST_SWEPT: Final = 500
"""Blocked tasks in one page of the sweep."""

REMOVED: Final = {"has_children": 1, "queue": 1, "group": 1}
"""What is read of a task that is removed, to know who waits for it."""

CHILD: Final = {"queue": 1, "blocked_by": 1, "on_parent_failure": 1}
"""What is read of a task that waits for others."""

PAGE_PAUSE_S: Final = 1.0
"""Between two pages of a sweep."""

Place = tuple[tuple[str, Any], ...]
"""A key of the index `streamq_blocked`: how far a sweep has come."""


class Followed(msgspec.Struct, frozen=True):
    """What one step did: the tasks made ready, how many marks were taken off, whether marks were found at all."""

    released: tuple[tuple[ObjectId, str], ...] = ()
    done: int = 0
    found: bool = False


def follow_up(tasks: Tasks, refused: list[Refused]) -> Followed:
    """See to what marked tasks stand for. Trips: 1 when nothing is marked, else about 4 for ended tasks with children
    and 5 for children that were put."""
    with tasks.deadline():
        marked = list(tasks.quick.find(queries.marked(), queries.MARKED).limit(MOST_MARKS))
        marked_dead = dead_letters.marked(tasks, MOST_MARKS)
    if not marked and not marked_dead:
        return Followed()
    ended = [one for one in marked if one["status"] in TERMINAL]
    dead = [one for one in marked_dead if one["_id"] not in {other["_id"] for other in ended}]
    waiting = _with_few_parents([one for one in marked if one["status"] == BLOCKED])
    released, whole = _tell_children(tasks, {one["_id"]: one["status"] for one in [*ended, *dead]}, refused)
    released += _look_at_parents(tasks, waiting, refused)
    released += promote(tasks, groups_of([*ended, *dead, *waiting]), refused)
    # Requeued before its followers were seen to, a task ends once more, with a mark of that end.
    others = [*waiting, *(one for one in marked if one["status"] not in (*TERMINAL, BLOCKED))]
    if _is_in_the_way(refused):
        others, whole = [], False  # all of them once more
    _unmark(tasks, others)
    done = _retain(tasks, ended, refused) + _retain_dead(tasks, dead, refused) if whole else 0
    return Followed(tuple(dict.fromkeys(released)), done + len(others), found=True)


def _is_in_the_way(refused: Sequence[Refused]) -> bool:
    return any(one.said == IN_THE_WAY for one in refused)


def _unmark(tasks: Tasks, documents: Sequence[Document]) -> None:
    """Take off the marks of tasks that have not ended."""
    alike: dict[Any, list[ObjectId]] = defaultdict(list)
    for one in documents:
        mark = one["follow_up"]
        alike[mark if is_number(mark) else None].append(one["_id"])
    with tasks.deadline():
        for mark, ids in alike.items():
            still = queries.marked_still(ids, {"$exists": True} if mark is None else mark)
            tasks.durable.update_many(still, {"$unset": {"follow_up": ""}})


def mark_followers(tasks: Tasks, documents: Sequence[Document]) -> None:
    """Have the followers of tasks looked at which were removed a moment ago; `REMOVED` was read of these. Cut off in
    between, they are left to the sweep. Trips: 0 when there are none, else 1 for all children and 1 for each group."""
    parents = [one["_id"] for one in documents if one.get("has_children") is True]
    if parents:
        tasks.durable.update_many(queries.children(parents), mark.update())
    for queue, group in groups_of(documents):
        first = queries.next_of(queue, group)
        tasks.durable.find_one_and_update(first, mark.update(), {"_id": 1}, sort=[("seq", 1)])


def tell(tasks: Tasks, ended: Document) -> bool:
    """See to who waits for one task that has ended; say whether these were all of them. Trips: 3 or more."""
    refused: list[Refused] = []
    whole = _tell_children(tasks, {ended["_id"]: ended["status"]}, refused)[1]
    return whole and not _is_in_the_way(refused)


def sweep(tasks: Tasks, place: Place | None) -> tuple[Tick, Place | None]:
    """Look at the next page of blocked tasks, after `place`; return where it ended (None: at the end of all).

    Trips: 0 when no task has ever waited for another, 1 when none does, else 3 or more. It finds what no mark tells:
    parents that the server removed at the end of their lifetime, or somebody by other means, and whatever else may have
    been missed.
    """
    tasks.features.look_again()
    if "followers" not in tasks.features.made():
        return Tick((), 0, None), None
    refused: list[Refused] = []
    with reading("sweep blocked tasks"):
        with tasks.deadline():
            found = tasks.quick.find(queries.blocked(), queries.SWEPT).hint(queries.SWEPT_BY).limit(MOST_SWEPT)
            page = list(found if place is None else found.min(place))
        waiting = _with_few_parents(page)
        released = _look_at_parents(tasks, waiting, refused)
        released += promote(tasks, groups_of(page), refused)
    more = len(page) == MOST_SWEPT
    last = page[-1] if more else {}
    reached = tuple((name, last.get(name)) for name in ("queue", "group", "seq")) if more else None
    return Tick(tuple(released), 0, PAGE_PAUSE_S if more else None, lasting(refused)), reached


def _with_few_parents(waiting: list[Document]) -> list[Document]:
    """Return the first of `waiting`, so many that the parents of all together can be looked up at once."""
    count = 0
    for place, one in enumerate(waiting):
        count += len(_awaited(one))
        if place and count > MOST_AWAITED:
            return waiting[:place]
    return waiting


def _awaited(child: Document) -> list[ObjectId]:
    """Read what a task waits for. What somebody else has made of that is no parent: such a task goes on waiting."""
    stored = child.get("blocked_by")
    return [id for id in stored if isinstance(id, ObjectId)] if isinstance(stored, list) else []


def _tell_children(tasks: Tasks, ends: Ends, refused: list[Refused]) -> tuple[list[tuple[ObjectId, str]], bool]:
    """Tell the children of ended tasks; return those made ready, and whether these were all children."""
    if not ends:
        return [], True
    with tasks.deadline():
        children = list(tasks.quick.find(queries.children(ends), CHILD).limit(MOST_CHILDREN))
        released = _unblock(tasks, children, ends, refused)
    return released, len(children) < MOST_CHILDREN


def _look_at_parents(tasks: Tasks, waiting: Sequence[Document], refused: list[Refused]) -> list[tuple[ObjectId, str]]:
    """Tell blocked tasks how their parents ended; parents that have not ended are marked, so that their ends tell."""
    parents = list({id for one in waiting for id in _awaited(one)})
    if not parents:
        return []
    with tasks.deadline():
        tasks.durable.update_many(queries.unmarked_parents(parents), {"$set": {"has_children": True}})
        found = dead_letters.statuses(tasks, parents)
        ends = {id: found.get(id, GONE) for id in parents if found.get(id, GONE) in (*TERMINAL, GONE)}
        return _unblock(tasks, [one for one in waiting if not ends.keys().isdisjoint(_awaited(one))], ends, refused)


def _unblock(
    tasks: Tasks, children: Sequence[Document], ends: Ends, refused: list[Refused]
) -> list[tuple[ObjectId, str]]:
    if not children:
        return []
    ids = [one["_id"] for one in children]
    # Those that may fail by it are moved with it, where there is a collection for dead letters.
    fail = [one["_id"] for one in children if one.get("on_parent_failure") == "fail"] if told(ends) else []
    others = [id for id in ids if id not in fail] if fail else ids
    if others:
        move(tasks.durable, queries.children(ends), unblock.update(ends), others, refused)
    if fail:
        dead_letters.fail(tasks, queries.children(ends), unblock.update(ends), fail, refused)
    ready = list(tasks.quick.find({"_id": {"$in": ids}, "status": READY}, {"queue": 1}))
    return named(ready, refused)


def _retain_dead(tasks: Tasks, letters: Sequence[Document], refused: list[Refused]) -> int:
    """Take the marks of dead letters off: they are kept anyway."""
    return 0 if tasks.dead is None else _move_ended(tasks.dead, letters, mark.off(), refused)


def _retain(tasks: Tasks, ended: Sequence[Document], refused: list[Refused]) -> int:
    """Take the marks of ended tasks off."""
    return _move_ended(tasks, ended, retain.update(), refused)


def _move_ended(tasks: Tasks, ended: Sequence[Document], update: list[dict[str, Any]], refused: list[Refused]) -> int:
    """Move ended tasks on whose followers were seen to. One whose end or mark somebody has made something else: its
    mark is taken off and nothing is worked out, or it would be looked at for ever."""
    dates = {one["_id"]: one["finished_at"] for one in ended if _is_mark_of_an_end(one)}
    others = [one["_id"] for one in ended if one["_id"] not in dates]
    done = 0
    with tasks.deadline():
        if dates:
            done += move(tasks.durable, queries.marked_ends(max(dates.values())), update, list(dates), refused)
        if others:
            done += move(tasks.durable, queries.marked_ends(None), mark.off(), others, refused)
    return done


def _is_mark_of_an_end(document: Document) -> bool:
    kept_s = document["follow_up"]
    return isinstance(document.get("finished_at"), datetime) and is_number(kept_s) and 0 <= kept_s <= MAX_DELAY_S
