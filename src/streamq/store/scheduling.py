"""Schedules, on the real server: rows of the meta collection, and one transaction for each slot that fires.

    insert the slot's task → advance the row, if it still says what was read → commit

Both or neither: no crash between loses a slot, and of all schedulers that try one commits. A deterministic `_id` would
not do: it fires a slot again once its task was deleted. The row is written last on purpose. A scheduler that dies
inside leaves its transaction open until the server ends it (60 s by default), and what that has written nobody else
can write: after the insert that is nobody's, after the advance it holds up the schedule. So the time between advance
and commit is kept to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from streamq.core import queries
from streamq.core.features import features_of
from streamq.core.moves import recur
from streamq.core.new_task import NewTask
from streamq.core.schedule import CONTROL_ID, PREFIX, Row, Schedule, ScheduleInfo, info_of, row_of
from streamq.errors import OptionInvalid
from streamq.store.collections import Document, Tasks
from streamq.store.contract import Firing, Refused
from streamq.store.faults import ACCESS, MAYBE_APPLIED, reading, short, writing

BUSY_S: Final = 0.05
"""When to look again after another scheduler was at the same row: about the time that its transaction takes."""

STUCK_S: Final = 5.0
"""When to try again what the server refused."""

TRANSIENT: Final = "TransientTransactionError"


def declare(tasks: Tasks, schedules: Sequence[Schedule], by: str, now: datetime) -> None:
    """See `Store.declare`. Trips: 1 when nothing is new, else 1 or 2 a schedule more, and 1 to tell."""
    if not schedules:
        return
    with reading("declare schedules"), tasks.deadline():
        rows = _read(tasks, [one.row_id for one in schedules])
        written = [_declare(tasks, one, rows.get(one.row_id), by, now) for one in schedules]
        if any(written):
            _announce(tasks)


def _declare(tasks: Tasks, schedule: Schedule, read: Document | None, by: str, now: datetime) -> bool:
    """Write until the row says what is declared; others may write it meanwhile. Return whether it was written."""
    while True:
        if read is None:
            try:
                tasks.meta.insert_one(recur.new_row(schedule, by, now))
                return True
            except DuplicateKeyError:
                pass  # another worker, just now
        else:
            update = recur.declare(read, schedule, by, read["now"])
            if update is None:
                return False
            if tasks.meta.update_one(recur.guard(read), update).matched_count:
                return True
        read = _read(tasks, [schedule.row_id]).get(schedule.row_id)


class _Look(msgspec.Struct):
    """What one look at the schedules has come to so far."""

    fired: list[NewTask]
    skipped: list[tuple[str, datetime]]
    refused: list[Refused]
    ahead: list[float]


def fire(tasks: Tasks, schedules: Sequence[Schedule], by: str, now: datetime) -> Firing:
    """See `Store.fire`. Trips: 1 when no slot has come; 3 or 4 more for each schedule with one."""
    look = _Look([], [], [], [])
    with reading("fire schedules"):
        with tasks.deadline():
            rows = _read(tasks, [one.row_id for one in schedules])
        for one in schedules:
            read = rows.get(one.row_id)
            if read is None:
                # Somebody removed it. A schedule must not stand still until a worker starts.
                with tasks.deadline():
                    _declare(tasks, one, None, by, now)
                look.ahead.append(BUSY_S)
            else:
                _fire(tasks, one, read, by, look)
    return Firing(tuple(look.fired), tuple(look.skipped), min(look.ahead, default=None), tuple(look.refused))


def _fire(tasks: Tasks, schedule: Schedule, read: Document, by: str, look: _Look) -> None:
    now: datetime = read["now"]
    try:
        row = row_of(read)
        if not recur.is_due(row, now):
            if row.enabled and row.next_at is not None:
                look.ahead.append((row.next_at - now).total_seconds())
            return
        tasks.features.announce(features_of([schedule.template]))
        with tasks.deadline():
            shot = _in_transaction(tasks, schedule, row, read, by, now)
    except OptionInvalid as error:
        look.refused.append(Refused(schedule.row_id, str(error)))
    except OperationFailure as error:
        if error.has_error_label(TRANSIENT):
            look.ahead.append(BUSY_S)
            return
        if error.code in ACCESS | MAYBE_APPLIED:
            raise
        look.refused.append(Refused(schedule.row_id, _said(error)))
        look.ahead.append(STUCK_S)
    else:
        if shot is None:
            look.ahead.append(BUSY_S)
            return
        look.fired += shot.tasks
        look.skipped += [(schedule.name, slot) for slot in shot.skipped]
        if shot.next_at is not None:
            look.ahead.append(max(0.0, (shot.next_at - now).total_seconds()))


def _in_transaction(
    tasks: Tasks, schedule: Schedule, row: Row, read: Document, by: str, now: datetime
) -> recur.Shot | None:
    """Fire one row; None when another scheduler has, or a person has switched it."""
    with (
        tasks.meta.database.client.start_session() as session,
        session.start_transaction(ReadConcern("local"), WriteConcern(w="majority", j=True), ReadPreference.PRIMARY),
    ):
        shot = recur.fire(row, schedule.template, by, now, busy=_is_busy(tasks, row, session))
        if shot.tasks:
            tasks.durable.insert_many([dict(one) for one in shot.documents(now)], session=session)
        if tasks.meta.update_one(recur.guard(read), shot.update, session=session).matched_count:
            return shot
        session.abort_transaction()
        return None


def _is_busy(tasks: Tasks, row: Row, session: ClientSession) -> bool:
    if row.recurrence.overlap or row.last_id is None:
        return False
    return tasks.durable.find_one(queries.has_not_ended(row.last_id), {"_id": 1}, session=session) is not None


def schedules(tasks: Tasks) -> list[ScheduleInfo]:
    """See `Store.schedules`. Trips: 1."""
    with reading("list schedules"), tasks.deadline():
        found = map(info_of, _read(tasks).values())
        return [one for one in found if one is not None]


def switch(tasks: Tasks, name: str, enabled: bool, by: str) -> bool:
    """See `Store.switch`. Trips: 1 when it is so already, else 3."""
    row_id = PREFIX + name
    with writing("switch a schedule"), tasks.deadline():
        while True:
            read = _read(tasks, [row_id]).get(row_id)
            if read is None:
                return False
            update = recur.switch(row_of(read), enabled, by, read["now"])
            if update is None:
                return True
            if tasks.meta.update_one(recur.guard(read), update).matched_count:
                _announce(tasks)
                return True


def _read(tasks: Tasks, ids: Iterable[str] | None = None) -> dict[str, Document]:
    return {document["_id"]: document for document in tasks.meta.aggregate(queries.schedules(ids))}


def _announce(tasks: Tasks) -> None:
    """Tell schedulers elsewhere, after the row was written."""
    tasks.durable.update_one({"_id": CONTROL_ID}, recur.announce(), upsert=True)


def _said(error: OperationFailure) -> str:
    details: dict[str, Any] = dict(error.details or {})
    if isinstance(error, BulkWriteError) and details.get("writeErrors"):
        return str(details["writeErrors"][0].get("errmsg"))
    return short(error)
