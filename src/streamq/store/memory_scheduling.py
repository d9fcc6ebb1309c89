"""`scheduling` on the books of the store in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from streamq.core.document import TERMINAL
from streamq.core.moves import recur
from streamq.core.new_task import NewTask
from streamq.core.schedule import PREFIX, Row, Schedule, ScheduleInfo, info_of, row_of
from streamq.core.wake import Wake
from streamq.errors import OptionInvalid
from streamq.store.contract import Firing, Refused
from streamq.store.memory_books import MemoryBooks


def declare(books: MemoryBooks, schedules: Sequence[Schedule], by: str) -> None:
    """See `Store.declare`."""
    now = books.instant()
    written = [_declare(books, one, by, now) for one in schedules]
    if any(written):
        _announce(books)


def _declare(books: MemoryBooks, schedule: Schedule, by: str, now: datetime) -> bool:
    row = books.meta.get(schedule.row_id)
    if row is None:
        books.meta[schedule.row_id] = recur.new_row(schedule, by, now)
        return True
    update = recur.declare(row, schedule, by, now)
    recur.apply(row, update or {})
    return update is not None


def fire(books: MemoryBooks, schedules: Sequence[Schedule], by: str, put: Callable[[NewTask], object]) -> Firing:
    """See `Store.fire`."""
    now = books.instant()
    fired: list[NewTask] = []
    skipped: list[tuple[str, datetime]] = []
    refused: list[Refused] = []
    ahead: list[float] = []
    for one in schedules:
        if one.row_id not in books.meta:
            _declare(books, one, by, now)
        stored = books.meta[one.row_id]
        try:
            row = row_of(stored)
        except OptionInvalid as error:
            refused.append(Refused(one.row_id, str(error)))
            continue
        next_at = row.next_at
        if recur.is_due(row, now):
            shot = recur.fire(row, one.template, by, now, busy=_is_busy(books, row))
            for new in shot.tasks:
                put(new)
            recur.apply(stored, shot.update)
            fired += shot.tasks
            skipped += [(one.name, slot) for slot in shot.skipped]
            next_at = shot.next_at
        if row.enabled and next_at is not None:
            ahead.append((next_at - now).total_seconds())
    return Firing(tuple(fired), tuple(skipped), min(ahead, default=None), tuple(refused))


def _is_busy(books: MemoryBooks, row: Row) -> bool:
    if row.recurrence.overlap or row.last_id is None:
        return False
    before = books.documents.get(row.last_id)
    return before is not None and before["status"] not in TERMINAL


def schedules(books: MemoryBooks) -> list[ScheduleInfo]:
    """See `Store.schedules`."""
    found = [info_of(books.meta[id]) for id in sorted(books.meta) if id.startswith(PREFIX)]
    return [one for one in found if one is not None]


def switch(books: MemoryBooks, name: str, enabled: bool, by: str) -> bool:
    """See `Store.switch`."""
    stored = books.meta.get(PREFIX + name)
    if stored is None:
        return False
    update = recur.switch(row_of(stored), enabled, by, books.instant())
    if update is not None:
        recur.apply(stored, update)
        _announce(books)
    return True


def _announce(books: MemoryBooks) -> None:
    for feed in list(books.feeds):
        if feed.interest.timers:
            feed.tell(Wake("schedule"))
