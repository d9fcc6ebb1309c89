"""What follows the end of a task, on the real server: its children learn of it, the next of its group
takes its turn.

    a terminal move ── mark on the ended task ──┐
    a put of a child ── mark on the child ──────┤→ tick → children unblocked → mark taken off, retention begins
    a sweep, now and then ──────────────────────┘

The mark is written by the very update that ends the task, so a settler that dies right after it loses nothing; any
scheduler sees to the children. It is taken off last: a step that is done twice finds nothing to do.

A child and its parent may be written at the same time. The put marks its parents (`has_children`) before it stores the
child, and the child is stored with a mark of its own. If a parent ends before the child is there to be found, the
look at the child finds the parent ended; if it ends later, it has been marked and its end finds the child. There is no
third case, also when the child becomes visible only at the commit of a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from bson import ObjectId

from streamq.core import queries
from streamq.core.document import BLOCKED, READY, TERMINAL
from streamq.core.moves import retain, unblock
from streamq.core.parents import GONE, Ends
from streamq.store.collections import Document, Tasks
from streamq.store.contract import Refused, Tick
from streamq.store.faults import reading
from streamq.store.grouping import groups_of, promote
from streamq.store.moving import move, named

MOST_MARKS: Final = 200
"""Marked tasks in one step. Each update carries their ids and compares them with what each child awaits."""

MOST_CHILDREN: Final = 1_000
"""Children moved in one step."""

MOST_AWAITED: Final = 5_000
"""Parents looked up in one step (of a single child: all)."""

MOST_SWEPT: Final = 500
"""Blocked tasks in one page of the sweep."""

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
    if not marked:
        return Followed()
    ended = [one for one in marked if one["status"] in TERMINAL]
    waiting = _with_few_parents([one for one in marked if one["status"] == BLOCKED])
    released, whole = _tell_children(tasks, {one["_id"]: one["status"] for one in ended}, refused)
    released += _look_at_parents(tasks, [one for one in waiting if "blocked_by" in one], refused)
    released += promote(tasks, groups_of([*ended, *waiting]), refused)
    # Requeued before its followers were seen to, a task ends once more, with a mark of that end.
    others = [*waiting, *(one for one in marked if one["status"] not in (*TERMINAL, BLOCKED))]
    if others:
        with tasks.deadline():
            still = queries.marked_still(one["_id"] for one in others)
            tasks.durable.update_many(still, {"$unset": {"follow_up": ""}})
    done = _retain(tasks, ended, refused) if whole else 0
    return Followed(tuple(dict.fromkeys(released)), done + len(others), found=True)


def sweep(tasks: Tasks, place: Place | None) -> tuple[Tick, Place | None]:
    """Look at the next page of blocked tasks, after `place`; return where it ended (None: at the end of all).

    Trips: 1 when nothing is blocked, else 3 or more. It finds what no mark tells: parents that a person or their
    lifetime removed, and whatever else may have been missed.
    """
    refused: list[Refused] = []
    with reading("sweep blocked tasks"):
        with tasks.deadline():
            found = tasks.quick.find(queries.blocked(), queries.SWEPT).hint(queries.SWEPT_BY).limit(MOST_SWEPT)
            page = list(found if place is None else found.min(place))
        waiting = _with_few_parents([one for one in page if "blocked_by" in one])
        released = _look_at_parents(tasks, waiting, refused)
        released += promote(tasks, groups_of(page), refused)
    more = len(page) == MOST_SWEPT
    last = page[-1] if more else {}
    reached = tuple((name, last.get(name)) for name in ("queue", "group", "seq")) if more else None
    return Tick(tuple(released), 0, PAGE_PAUSE_S if more else None, tuple(refused)), reached


def _with_few_parents(waiting: list[Document]) -> list[Document]:
    """Return the first of `waiting`, so many that the parents of all together can be looked up at once."""
    count = 0
    for place, one in enumerate(waiting):
        count += len(one.get("blocked_by", ()))
        if place and count > MOST_AWAITED:
            return waiting[:place]
    return waiting


def _tell_children(tasks: Tasks, ends: Ends, refused: list[Refused]) -> tuple[list[tuple[ObjectId, str]], bool]:
    """Tell the children of ended tasks; return those made ready, and whether these were all children."""
    if not ends:
        return [], True
    with tasks.deadline():
        children = list(tasks.quick.find(queries.children(ends), {"queue": 1}).limit(MOST_CHILDREN))
        released = _unblock(tasks, children, ends, refused)
    return released, len(children) < MOST_CHILDREN


def _look_at_parents(tasks: Tasks, waiting: Sequence[Document], refused: list[Refused]) -> list[tuple[ObjectId, str]]:
    """Tell blocked tasks how their parents ended; parents that have not ended are marked, so that their ends tell."""
    parents = list({id for one in waiting for id in one["blocked_by"]})
    if not parents:
        return []
    with tasks.deadline():
        tasks.durable.update_many(queries.unmarked_parents(parents), {"$set": {"has_children": True}})
        found = {one["_id"]: one["status"] for one in tasks.quick.find({"_id": {"$in": parents}}, {"status": 1})}
        ends = {id: found.get(id, GONE) for id in parents if found.get(id, GONE) in (*TERMINAL, GONE)}
        return _unblock(tasks, [one for one in waiting if not ends.keys().isdisjoint(one["blocked_by"])], ends, refused)


def _unblock(
    tasks: Tasks, children: Sequence[Document], ends: Ends, refused: list[Refused]
) -> list[tuple[ObjectId, str]]:
    if not children:
        return []
    ids = [one["_id"] for one in children]
    move(tasks, queries.children(ends), unblock.update(ends), ids, refused)
    ready = list(tasks.quick.find({"_id": {"$in": ids}, "status": READY}, {"queue": 1}))
    return named(ready, refused)


def _retain(tasks: Tasks, ended: Sequence[Document], refused: list[Refused]) -> int:
    """Take the marks of ended tasks off."""
    if not ended:
        return 0
    latest = max(one["finished_at"] for one in ended)
    with tasks.deadline():
        return move(tasks, queries.marked_ends(latest), retain.update(), [one["_id"] for one in ended], refused)
