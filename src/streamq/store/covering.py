"""Inserting with the extra wake channel: woken by before it is committed, acknowledged when it is.

    insert the tasks, w:1 ──→ write the notice, majority + journal ──→ acknowledged
                                     │ readers hear of it here, long before the majority has it

A primary's log is one line: once the majority has journaled the notice it has journaled all that the same primary
took before it, the tasks too. "The same primary" is what both replies say by `electionId`: between two writes another
node may have been elected, whose majority knows nothing of what only the old one had. So:

    1. the notice is acknowledged in the election of the insert: done;
    2. the notice was not taken (the collection is gone, a right is missing, the line broke): an update that
       finds nothing waits for the majority just as well. Acknowledged in that election: done;
    3. anything else (a router, which does not say which election it is, too): the tasks are sent again with majority.
       One that is stored is turned away by its id, which waits for the majority as well.

What ends without any of the three raises `PutUnknown`: no task is called stored that a majority has not journaled. The
third is not the second's equal: a task that was run and deleted meanwhile is stored again, and runs twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from bson import ObjectId
from pymongo.errors import BulkWriteError, ServerSelectionTimeoutError

from streamq.core.moves import nothing
from streamq.core.new_task import NewTask
from streamq.core.notice import notice_of
from streamq.errors import PutUnknown, StoreError
from streamq.store.collections import Document, Tasks
from streamq.store.faults import DRIVER_ERRORS, is_unknown, short
from streamq.store.inserting import ALL, Inserted, insert, turned_away
from streamq.store.wake_channel import WakeChannel, elected, written

MAJORITY: Final = {"w": "majority", "j": True}


def insert_and_tell(tasks: Tasks, channel: WakeChannel, new: Sequence[NewTask], documents: list[Document]) -> Inserted:
    """Insert like `inserting.insert`, and wake sooner those that can start now. Trips: 2; 1 when there are none."""
    if notice_of(documents) is None:
        return insert(tasks, documents)
    with tasks.deadline():
        if not channel.is_open():
            return insert(tasks, documents)
        command = {"insert": tasks.quick.name, "documents": documents, "ordered": False}
        try:
            reply = written(tasks.quick.database, command, {"w": 1})
        except ServerSelectionTimeoutError:
            raise  # nothing was sent
        except DRIVER_ERRORS as error:
            if not is_unknown(error):
                return insert(tasks, documents)  # nothing is stored, and it says why as for any put
            # Whose ids nobody has chosen can only have been stored by this very call.
            return _send_again(tasks, documents, {place for place, one in enumerate(new) if one.options.id is None})
        errors = reply.get("writeErrors")
        inserted = turned_away(BulkWriteError({"writeErrors": errors}), documents) if errors else ALL
        away = inserted.before | inserted.met
        created = {place for place in range(len(documents)) if place not in away}
        if _is_covered(tasks, channel, [documents[place] for place in sorted(created)], reply.get("electionId")):
            return inserted
        return _send_again(tasks, documents, created)


def _is_covered(tasks: Tasks, channel: WakeChannel, stored: list[Document], election: ObjectId | None) -> bool:
    """Say whether the majority has what the primary of `election` has stored; see above."""
    if election is None:
        with contextlib.suppress(*DRIVER_ERRORS):
            channel.tell(stored, {"w": 1})
        return False
    writes: tuple[Callable[[], ObjectId | None], ...] = (
        lambda: channel.tell(stored, MAJORITY),
        lambda: _wait_for_majority(tasks),
    )
    for write in writes:
        try:
            took = write()
        except DRIVER_ERRORS:
            continue
        if took is not None:
            return took == election
    return False


def _wait_for_majority(tasks: Tasks) -> ObjectId | None:
    update = {"update": tasks.quick.name, "updates": [{"q": nothing.NONE, "u": nothing.update()}]}
    return elected(written(tasks.quick.database, update, MAJORITY))


def _send_again(tasks: Tasks, documents: list[Document], created: set[int]) -> Inserted:
    """Insert with majority what is stored, or may be. Those `created` are this call's own when they are found there."""
    try:
        again = insert(tasks, documents)
    except PutUnknown:
        raise
    except (*DRIVER_ERRORS, StoreError) as error:
        raise PutUnknown([one["_id"] for one in documents], short(error)) from error
    return Inserted(again.before - created, again.met)
