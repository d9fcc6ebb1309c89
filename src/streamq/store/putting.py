"""Storing new tasks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from pymongo.errors import ServerSelectionTimeoutError

from streamq.core.features import features_of
from streamq.core.moves.put import documents_of
from streamq.core.new_task import NewTask, PutReply
from streamq.core.parents import Family
from streamq.core.put_many import MOST_A_CHUNK, PutMany
from streamq.errors import PutUnknown, StoreError
from streamq.store import twins
from streamq.store.collections import Document, Tasks
from streamq.store.covering import insert_and_tell
from streamq.store.faults import DRIVER_ERRORS, is_unknown, short, translated
from streamq.store.inserting import ALL, insert, too_large
from streamq.store.parents import family_of
from streamq.store.transacted import HELD_APART, put_apart, put_within


def put(tasks: Tasks, new: Sequence[NewTask], now: datetime, session: Any) -> Sequence[PutReply]:
    """Insert `new` in chunks; see `Store.put`."""
    if not new:
        return []
    tasks.features.announce(features_of(new))
    family = family_of(tasks, new, session)
    if len(new) <= MOST_A_CHUNK:
        return _put_chunk(tasks, new, now, family, session)
    many = PutMany(new, in_transaction=session is not None)
    for chunk in many:
        with many.storing():
            replies = _put_chunk(tasks, chunk, now, family, session)
        many.add(replies)
    return many.replies


def _put_chunk(tasks: Tasks, new: Sequence[NewTask], now: datetime, family: Family, session: Any) -> list[PutReply]:
    documents = cast("list[Document]", documents_of(new, now, family))
    if session is not None:
        return put_within(session, tasks, new, documents)
    try:
        return _put(tasks, new, documents)
    except DRIVER_ERRORS as error:
        if is_unknown(error):
            raise PutUnknown([one.id for one in new], short(error)) from error
        raise too_large(documents) or translated(error, "put tasks", writing=True) from error
    except PutUnknown as error:
        raise PutUnknown([one.id for one in new], error.reason) from error.__cause__


def _put(tasks: Tasks, new: Sequence[NewTask], documents: list[Document]) -> list[PutReply]:
    """Store a chunk: by one insert, but for tasks whose key outlives them, which take a transaction."""
    apart = [place for place, document in enumerate(documents) if HELD_APART in document]
    if not apart:
        return _store(tasks, new, documents)
    rest = [place for place in range(len(new)) if place not in set(apart)]
    replies = {}
    if rest:
        stored = _store(tasks, [new[place] for place in rest], [documents[place] for place in rest])
        replies = dict(zip(rest, stored, strict=True))
    try:
        answers = put_apart(tasks, [(new[place], documents[place]) for place in apart])
    except (*DRIVER_ERRORS, StoreError) as error:
        if not rest:
            raise
        # The others are stored: "nothing has changed" would be false.
        raise PutUnknown([one.id for one in new], short(error)) from error
    replies |= dict(zip(apart, answers, strict=True))
    return [replies[place] for place in range(len(new))]


def _store(tasks: Tasks, new: Sequence[NewTask], documents: list[Document]) -> list[PutReply]:
    stored = insert(tasks, documents) if tasks.wakes is None else insert_and_tell(tasks, tasks.wakes, new, documents)
    if stored is ALL:
        return [PutReply(one.id) for one in new]
    replies = [PutReply(one.id, "existing" if place in stored.before else "created") for place, one in enumerate(new)]
    met = sorted(stored.met)
    for _ in range(twins.MOST_ROUNDS):
        if not met:
            return replies
        met = _meet(tasks, new, documents, met, replies)
    raise StoreError(
        f"cannot put task {new[met[0]].id}: tasks with its unique key came and went {twins.MOST_ROUNDS} times while it "
        "was put; put it again"
    )


def _meet(
    tasks: Tasks, new: Sequence[NewTask], documents: Sequence[Document], met: list[int], replies: list[PutReply]
) -> list[int]:
    """Write the replies of those that met a twin; what meets another one when it is inserted again is returned."""
    try:
        with tasks.deadline():
            answers = twins.meet(tasks, [new[place] for place in met], [documents[place] for place in met])
        again = [place for place, reply in zip(met, answers, strict=True) if reply is None]
        stored = insert(tasks, [documents[place] for place in again]) if again else ALL
    except ServerSelectionTimeoutError as error:
        # The others of the insert are stored: "nothing has changed" would be false.
        raise PutUnknown([new[place].id for place in met], short(error)) from error
    for place, reply in zip(met, answers, strict=True):
        if reply is not None:
            replies[place] = reply
    for index, place in enumerate(again):
        replies[place] = PutReply(new[place].id, "existing" if index in stored.before else "created")
    return [again[index] for index in sorted(stored.met)]
