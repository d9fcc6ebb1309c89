"""`following` and `grouping` on the books of the store in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from bson import ObjectId

from streamq.core.document import BLOCKED, READY, TaskDocument
from streamq.core.moves import mark, promote, retain, unblock
from streamq.core.parents import GONE, Ends
from streamq.core.transitions import is_terminal
from streamq.store.memory_books import MemoryBooks, has_mark_of_end


def follow_up(books: MemoryBooks, marked: Sequence[TaskDocument], now: datetime) -> list[tuple[ObjectId, str]]:
    """`store.following.follow_up`, in memory."""
    ended = [document for document in marked if is_terminal(document["status"])]
    waiting = [document for document in marked if not is_terminal(document["status"])]
    ends: Ends = {document["_id"]: document["status"] for document in ended}
    parents = {id for document in waiting for id in document.get("blocked_by", ())}
    released = _unblock(books, list(books.documents.values()), ends, now)
    released += look_at_parents(books, waiting, parents, now)
    released += promote_next(books, marked, now)
    for document in waiting:
        if not is_terminal(document["status"]):
            document.pop("follow_up", None)
    for document in ended:
        if document["_id"] in books.documents:
            retain.apply(document, now)
        else:
            del document["follow_up"]  # it is kept anyway
    return released


def look_at_parents(
    books: MemoryBooks, waiting: Sequence[TaskDocument], parents: Iterable[ObjectId], now: datetime
) -> list[tuple[ObjectId, str]]:
    """Unblock those whose parents have ended or are gone; return what became ready."""
    ends: dict[ObjectId, str] = {}
    for id in parents:
        parent = books.anywhere(id)
        if parent is None:
            ends[id] = GONE
        elif is_terminal(parent["status"]):
            ends[id] = parent["status"]
        else:
            parent["has_children"] = True
    return _unblock(books, waiting, ends, now)


def _unblock(
    books: MemoryBooks, tasks: Sequence[TaskDocument], ends: Ends, now: datetime
) -> list[tuple[ObjectId, str]]:
    released = []
    for document in tasks:
        if unblock.is_child(document, ends):
            unblock.apply(document, ends, now)
            books.tell(document)
            books.bury(document)
            if document["status"] == READY:
                released.append((document["_id"], document["queue"]))
    return released


def mark_followers(books: MemoryBooks, removed: TaskDocument) -> None:
    """`store.following.mark_followers`, in memory."""
    children = [one for one in books.documents.values() if unblock.is_child(one, {removed["_id"]: GONE})]
    followers = children if removed.get("has_children") is True else []
    if "group" in removed:
        group = (removed["queue"], removed["group"])
        waiting = [one for one in books.documents.values() if one["status"] == BLOCKED]
        of_group = [one for one in waiting if (one["queue"], one.get("group")) == group]
        followers = [*followers, *sorted(of_group, key=lambda one: one["seq"])[:1]]
    for document in followers:
        mark.apply(document)
        books.tell(document)


def leave_followers(books: MemoryBooks, deleted: TaskDocument) -> None:
    """See to who waits for a task that somebody has deleted: how it ended is told, if it had."""
    if has_mark_of_end(deleted):
        _unblock(books, list(books.documents.values()), {deleted["_id"]: deleted["status"]}, books.instant())
    mark_followers(books, deleted)


def promote_next(books: MemoryBooks, documents: Iterable[TaskDocument], now: datetime) -> list[tuple[ObjectId, str]]:
    """`store.grouping.promote`, in memory."""
    released = []
    for queue, group in dict.fromkeys((one["queue"], one["group"]) for one in documents if "group" in one):
        of_group = [one for one in books.documents.values() if (one["queue"], one.get("group")) == (queue, group)]
        waiting = [one for one in of_group if one["status"] == BLOCKED]
        first = min(waiting, key=lambda one: one["seq"], default=None)
        if first is None or not promote.may_take_turn(first) or any("group_lock" in one for one in of_group):
            continue
        promote.apply(first, now)
        books.tell(first)
        if first["status"] == READY:
            released.append((first["_id"], queue))
    return released
