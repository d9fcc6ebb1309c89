"""What a put asks of its tasks' parents, before anything is stored: see `store.following` for the whole story."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from bson import ObjectId

from streamq.core import queries
from streamq.core.document import SUCCEEDED, TERMINAL
from streamq.core.new_task import NewTask
from streamq.core.options import NO_OPTIONS
from streamq.core.parents import EXPECTED, KEYED, NO_FAMILY, Family
from streamq.errors import OptionInvalid
from streamq.store.collections import Document, Tasks
from streamq.store.faults import reading

KIN: Final = {"status": 1, "has_children": 1, "keep_s": 1}
MARK: Final = {"$set": {"has_children": True}}


def family_of(tasks: Tasks, new: Sequence[NewTask], session: Any) -> Family:
    """Find out how the parents of `new` stand, and mark those that have not ended, so that their ends are noticed.

    A task may name one that stands before it in the same put. Raises `OptionInvalid` for a parent that is not stored;
    nothing has been stored then. Trips: 0 without parents, 1 when all are marked already or have ended, else 3; 2 more
    when some may be among the dead letters.
    """
    if not any(one.options is not NO_OPTIONS and one.options.has_parents for one in new):
        return NO_FAMILY
    wanted, inside = _sorted_out(new)
    with reading("look up parents"), tasks.deadline():
        found = _find_anywhere(tasks, wanted)
    # Put in the caller's transaction, a parent is nobody else's to see. The driver's errors are left as they are here:
    # their labels tell the caller's `with_transaction` to run again.
    own = _find(tasks, wanted - found.keys(), session) if session is not None else {}
    if own:
        tasks.durable.update_many(queries.unmarked_parents(own), MARK, session=session)
    with reading("look up parents"), tasks.deadline():
        _require_stored(tasks, new, wanted - found.keys() - own.keys())
        live = {
            id for id, one in found.items() if one["status"] not in TERMINAL and one.get("has_children") is not True
        }
        if live:
            found |= _marked(tasks, new, {id: found[id] for id in live})
    ends = {id: one["status"] for id, one in (found | own).items() if one["status"] in TERMINAL}
    satisfied = wanted - found.keys() - own.keys()
    return Family(ends | dict.fromkeys(satisfied, SUCCEEDED), inside)


def _marked(tasks: Tasks, new: Sequence[NewTask], live: dict[ObjectId, Document]) -> dict[ObjectId, Document]:
    """Mark parents that had not ended a moment ago, and return them as they are now."""
    tasks.durable.update_many(queries.unmarked_parents(live), MARK)
    again = _find_anywhere(tasks, live)
    # What was deleted between the two looks, as it was to be at its success, has succeeded.
    deleted = [id for id, one in live.items() if id not in again and one.get("keep_s") == 0]
    _require_stored(tasks, new, live.keys() - again.keys() - set(deleted))
    return again | {id: {"status": SUCCEEDED} for id in deleted}


def _sorted_out(new: Sequence[NewTask]) -> tuple[set[ObjectId], set[ObjectId]]:
    """Return the parents that must be stored already, and those that stand earlier in the put."""
    before: dict[ObjectId, bool] = {}  # and whether it has a unique key
    wanted: set[ObjectId] = set()
    inside: set[ObjectId] = set()
    for one in new:
        for id in one.options.parents if one.options.has_parents else ():
            if id == one.id:
                raise OptionInvalid("after", id, "other tasks than the one that is put")
            if before.get(id, False):
                raise OptionInvalid("after", id, KEYED)
            (inside if id in before else wanted).add(id)
        before[one.id] = one.options.unique is not None
    return wanted, inside


def _find(tasks: Tasks, ids: Iterable[ObjectId], session: Any = None) -> dict[ObjectId, Document]:
    wanted = {"_id": {"$in": list(ids)}, "status": {"$exists": True}}
    return {one["_id"]: one for one in tasks.quick.find(wanted, KIN, session=session)}


def _find_anywhere(tasks: Tasks, ids: Iterable[ObjectId]) -> dict[ObjectId, Document]:
    """Find tasks, also among the dead letters: one that moves there or back between two looks is found by the third."""
    found = _find(tasks, ids)
    for handle in (tasks.dead, tasks) if tasks.dead is not None else ():
        missing = [id for id in ids if id not in found]
        if handle is not None and missing:
            found |= _find(handle, missing)
    return found


def _require_stored(tasks: Tasks, new: Sequence[NewTask], missing: set[ObjectId]) -> None:
    """Refuse a put that names tasks which are not there. One that is repeated (its reply was lost) may name parents
    that have been removed since: it is stored already, so nothing of it is missing."""
    strict = [one for one in new if one.options.missing_parent != "satisfied" and one.options.has_parents]
    lacking = [(one.id, id) for one in strict for id in one.options.parents if id in missing] if missing else []
    stored = _find(tasks, {child for child, _ in lacking}) if lacking else {}
    for child, parent in lacking:
        if child not in stored:
            raise OptionInvalid("after", parent, EXPECTED)
