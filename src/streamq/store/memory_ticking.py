"""`ticking` and `releasing` on the books of the store in memory: what time alone brings about."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from bson import ObjectId

from streamq.core.document import BLOCKED, DELAYED, FAILED, READY, RUNNING, WAITING, TaskDocument
from streamq.core.moves import announce, expire, release_due, take_back
from streamq.core.wakes import by_urgency, wake_of_due
from streamq.store.contract import Due, Overdue, Released, Tick
from streamq.store.memory_books import MemoryBooks, has_mark_of_end
from streamq.store.memory_following import follow_up, look_at_parents, mark_followers, promote_next


def tick(books: MemoryBooks, releases: bool = True) -> Tick:
    """See `Store.tick`."""
    now = books.instant()
    released: list[tuple[ObjectId, str]] = []
    failed = expired = removed = 0
    due_s = None if releases else _ahead_s(_dues(books), now)
    ahead = _ahead_s(_ends(books) + (_dues(books) if releases else []), now)
    for document in list(books.documents.values()):
        if "lifetime_until" in document and document["lifetime_until"] <= now:
            if not has_mark_of_end(document):
                books.free(document)
                del books.documents[document["_id"]]
                mark_followers(books, document)
                removed += 1
            continue
        if expire.is_expired(document, now):
            expire.apply(document, now)
            expired += 1
        elif releases and release_due.is_due(document, now):
            release_due.apply(document, now)
        elif take_back.is_ended(document, now):
            take_back.apply(document, now)
            failed += document["status"] == FAILED
        else:
            continue
        if document["status"] == READY:
            released.append((document["_id"], document["queue"]))
        books.tell(document)
        books.bury(document)
    everywhere = [*books.documents.values(), *(books.dead or {}).values()]
    marked = [document for document in everywhere if "follow_up" in document]
    if marked:
        released += follow_up(books, marked, now)
        ahead = 0.0
    return Tick(tuple(released), failed, ahead, followed=len(marked), expired=expired, removed=removed, due_s=due_s)


def sweep(books: MemoryBooks) -> Tick:
    """See `Store.sweep`: all in one page."""
    blocked = [document for document in books.documents.values() if document["status"] == BLOCKED]
    parents = {id for document in blocked for id in document.get("blocked_by", ())}
    now = books.instant()
    released = look_at_parents(books, blocked, parents, now) + promote_next(books, blocked, now)
    return Tick(tuple(released), 0, None)


def due(books: MemoryBooks, most: int, *, whole: bool = False) -> Due:
    """See `Store.due`."""
    now = books.instant()
    first = sorted(_all_due(books, now), key=lambda one: one["due_at"])[:most]
    found = sorted(first, key=by_urgency)
    later = [instant for instant in _dues(books) if instant > now]
    ahead = 0.0 if len(found) == most else _ahead_s(later, now)
    read = [copy.deepcopy(one) for one in found] if whole else []
    return Due(tuple(wake_of_due(one) for one in found), ahead, found=tuple(read))


def overdue(books: MemoryBooks) -> Overdue:
    """See `Store.overdue`. It reads all."""
    found = _all_due(books, books.instant())
    lasts = {one["queue"]: one["_id"] for one in found}
    return Overdue(tuple(one["_id"] for one in found), tuple(lasts), more=False, lasts=tuple(lasts.values()))


def release(books: MemoryBooks, ids: Sequence[Any], queues: Sequence[str]) -> Released:
    """See `Store.release_due`."""
    now, quietly = books.instant(), bool(queues)
    found = [books.documents[id] for id in ids if id in books.documents]
    due = [document for document in found if release_due.is_due(document, now)]
    for document in due:
        release_due.apply(document, now, quietly=quietly)
        if not quietly:
            books.tell(document)
    for queue in queues:
        _announce(books, queue)
    return Released(len(due))


def _announce(books: MemoryBooks, queue: str) -> None:
    waiting = [one for one in books.documents.values() if announce.is_unannounced(one, queue)]
    if waiting:
        first = min(waiting, key=by_urgency)
        announce.apply(first)
        books.tell(first)


def _all_due(books: MemoryBooks, now: datetime) -> list[TaskDocument]:
    return [document for document in books.documents.values() if release_due.is_due(document, now)]


def _dues(books: MemoryBooks) -> list[datetime]:
    return [document["due_at"] for document in books.documents.values() if document["status"] == DELAYED]


def _ends(books: MemoryBooks) -> list[datetime]:
    instants: list[datetime] = []
    for document in books.documents.values():
        if document["status"] == RUNNING:
            instants.append(document["lease_until"])
        if document["status"] in WAITING and document["attempt"] == 0 and "expires_at" in document:
            instants.append(document["expires_at"])
        if "lifetime_until" in document:
            instants.append(document["lifetime_until"])
    return instants


def _ahead_s(instants: Sequence[datetime], now: datetime) -> float | None:
    return max(0.0, (min(instants) - now).total_seconds()) if instants else None
