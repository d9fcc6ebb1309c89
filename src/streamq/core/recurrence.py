"""When a recurring task runs: which slots there are, and which of those that have come are fired. Pure.

A slot is an instant. Three kinds of recurrence make them:

- a grid, `every_s` apart, counted from an anchor that is stored: it never drifts, however late a slot is fired;
- a cron expression that names hours: its slots are times on the wall of its zone. When the wall clock jumps forward
  the times that do not exist fall together on the first moment after the gap; when it is set back the times that come
  twice count at their first coming. So each runs once, neither skipped nor doubled;
- a cron expression for every hour of the day: it follows elapsed time, through a change of the clock as well: a task
  for each hour at minute 0 runs once each hour that passes.

The expressions themselves are read by cronsim, which is given wall times without a zone: what its own handling of
changes, that of Debian's cron, would skip or double ("0 2,3 * * *", "*/15 2 * * *") is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from streamq.core.retry import MAX_DELAY_S
from streamq.errors import OptionInvalid

Missed = Literal["latest", "all", "none"]

MOST_MISSED: Final = 1_000
"""How many missed slots `missed="all"` makes up for at once, the newest. Chosen freely: more than a day of minutes
missed is rarely wanted back, and one transaction carries as many."""

LATE_S: Final = 60.0
"""A slot that is fired this late still counts as on time for `missed="none"`: an election, or the restart of the only
worker, is no reason to leave it out. Chosen freely."""

SHORTEST_S: Final = 1.0
"""The shortest `every_s`: each slot is a transaction on the server, with majority."""

A_MINUTE: Final = timedelta(minutes=1)
A_DAY: Final = timedelta(days=1)
FIRST_LOOK: Final = timedelta(hours=1)
SOME_DAY: Final = datetime(2026, 1, 1, tzinfo=UTC)
EVERY_HOUR: Final = frozenset(range(24))

CRON_EXPECTED: Final = "five fields: minute, hour, day of month, month, day of week, as in '*/5 * * * *'"
SPEC: Final = re.compile(r"every (?P<every_ms>[0-9]{4,15}) ms|cron (?P<cron>(?:\S+ ){5})(?P<tz>\S+)")


class Recurrence(msgspec.Struct, frozen=True):
    """When a handler's tasks recur: `cron` in the zone `tz`, or `every_ms`; exactly one of both.

    `missed` says what becomes of slots at whose time no worker was there; `overlap` whether a slot is fired while the
    task of the slot before it has not ended. Made by `recurrence_of` and `recurrence_of_row`.
    """

    cron: str | None
    tz: str
    every_ms: int | None
    missed: Missed = "latest"
    overlap: bool = True

    @property
    def spec(self) -> str:
        """Return the text by which it is stored and shown. Two declarations with one text have the same slots."""
        return f"every {self.every_ms} ms" if self.cron is None else f"cron {self.cron} {self.tz}"


class Due(msgspec.Struct, frozen=True):
    """What to do about a schedule whose next slot has come.

    `slots` are fired, oldest first; `last_slot_at` is the newest slot that has come, fired or not; `next_at` the first
    one after now, None when there is none for fifty years.
    """

    slots: tuple[datetime, ...]
    last_slot_at: datetime
    next_at: datetime | None


# --- declaring -----------------------------------------------------------------------------------------------------


def recurrence_of(cron: object, tz: object, every_s: object, missed: object, overlap: object) -> Recurrence | None:
    """Return what a declaration says, None when it says nothing of recurring. Raises `OptionInvalid`.

    None stands for an option that was not given.
    """
    if cron is None and every_s is None:
        for name, value in (("tz", tz), ("missed", missed), ("overlap", overlap)):
            if value is not None:
                raise OptionInvalid(name, value, "cron or every_s beside it: the task does not recur")
        return None
    if cron is not None and every_s is not None:
        raise OptionInvalid("every_s", every_s, "either cron or every_s, not both")
    if cron is None and tz is not None:
        raise OptionInvalid("tz", tz, "cron beside it: a grid of seconds has no time zone")
    missed = "latest" if missed is None else _require_missed(missed)
    overlap = True if overlap is None else _require_bool("overlap", overlap)
    if missed == "all" and not overlap:
        raise OptionInvalid("missed", missed, "'latest' or 'none' with overlap=False: all missed slots start at once")
    zone = require_tz("UTC" if tz is None else tz)
    return Recurrence(
        cron=None if cron is None else require_cron(cron, zone),
        tz=zone,
        every_ms=None if every_s is None else require_every_ms(every_s),
        missed=missed,
        overlap=overlap,
    )


def require_cron(value: object, tz: str) -> str:
    """Return a cron expression in one spelling. Raises `OptionInvalid` for one that is none, or never comes."""
    if not isinstance(value, str) or len(value) > 1_000:
        raise OptionInvalid("cron", value, CRON_EXPECTED)
    expression = " ".join(value.upper().split())
    if expression.count(" ") != 4:
        raise OptionInvalid("cron", value, CRON_EXPECTED + " (for seconds use every_s)")
    try:
        first = next(_cron_slots(expression, tz, SOME_DAY), None)
    except (CronSimError, ValueError, AssertionError) as error:
        raise OptionInvalid("cron", value, f"{CRON_EXPECTED} ({error})") from error
    if first is None:
        raise OptionInvalid("cron", value, "a time that comes within fifty years")
    return expression


def require_tz(value: object) -> str:
    """Return the name of a time zone that this machine knows. Raises `OptionInvalid`."""
    expected = "the name of a time zone as zoneinfo knows it, such as 'Europe/Berlin' (the package tzdata brings them)"
    if not isinstance(value, str):
        raise OptionInvalid("tz", value, expected)
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise OptionInvalid("tz", value, expected) from error
    return value


def require_every_ms(value: object) -> int:
    """Return a distance of slots in milliseconds. Raises `OptionInvalid`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not SHORTEST_S <= value <= MAX_DELAY_S:  # type: ignore[operator]
        raise OptionInvalid("every_s", value, f"seconds from {SHORTEST_S:g} to ten years, as an int or float")
    return round(value * 1000)  # type: ignore[operator]


def _require_missed(value: object) -> Missed:
    for known in get_args(Missed):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise OptionInvalid("missed", value, f"one of {', '.join(map(repr, get_args(Missed)))}")


def _require_bool(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise OptionInvalid(name, value, "True or False")
    return value


def recurrence_of_text(spec: object, missed: object, overlap: object) -> Recurrence:
    """Read a recurrence as it is stored. Raises `OptionInvalid`: another version, or a person, wrote it."""
    found = SPEC.fullmatch(spec) if isinstance(spec, str) else None
    if found is None:
        raise OptionInvalid("spec", spec, "'every <n> ms' or 'cron <five fields> <zone>'")
    every_ms = found["every_ms"]
    every_s = None if every_ms is None else int(every_ms) / 1000
    recurrence = recurrence_of(found["cron"], found["tz"], every_s, missed, overlap)
    assert recurrence is not None
    return recurrence


# --- slots ---------------------------------------------------------------------------------------------------------


def next_slot(recurrence: Recurrence, anchor_at: datetime, after: datetime) -> datetime | None:
    """Return the first slot after `after`; None when there is none for fifty years."""
    return next(slots_after(recurrence, anchor_at, after), None)


def slots_after(recurrence: Recurrence, anchor_at: datetime, after: datetime) -> Iterator[datetime]:
    """Return the slots after `after`, each later than the one before, in UTC."""
    if recurrence.cron is not None:
        return _cron_slots(recurrence.cron, recurrence.tz, after)
    assert recurrence.every_ms is not None
    return _grid_slots(timedelta(milliseconds=recurrence.every_ms), anchor_at, after)


def due(recurrence: Recurrence, anchor_at: datetime, next_at: datetime, now: datetime) -> Due:
    """Decide what becomes of the slots from `next_at`, which has come, to `now`. The clock is the server's."""
    most = MOST_MISSED if recurrence.missed == "all" else 1
    come = _newest(recurrence, anchor_at, next_at, now, most)
    on_time = (now - come[-1]).total_seconds() <= LATE_S
    fired = come if on_time or recurrence.missed != "none" else ()
    return Due(fired, come[-1], next_slot(recurrence, anchor_at, now))


def _newest(
    recurrence: Recurrence, anchor_at: datetime, first: datetime, now: datetime, most: int
) -> tuple[datetime, ...]:
    """Return the newest slots from `first` to `now`, at most so many. `first` is one in any case: it was announced,
    whatever rules of its zone have changed since. A year of minutes may have passed: the look back begins short and
    grows until it has found enough."""
    back = FIRST_LOOK
    while True:
        is_all = back >= now - first
        found = [first] if is_all else []
        for slot in slots_after(recurrence, anchor_at, first if is_all else now - back):
            if slot > now:
                break
            found.append(slot)
        if len(found) >= most or is_all:
            return tuple(found[-most:])
        back *= 4


def _grid_slots(step: timedelta, anchor_at: datetime, after: datetime) -> Iterator[datetime]:
    """Count from the anchor, not from the slot before: rounding does not add up."""
    place = max((after - anchor_at) // step, 0) + 1
    while True:
        yield anchor_at + place * step
        place += 1


def _cron_slots(cron: str, tz: str, after: datetime) -> Iterator[datetime]:
    zone = ZoneInfo(tz)
    read = CronSim(cron, datetime(2026, 1, 1))
    all_day = read.hours >= EVERY_HOUR
    slots = _elapsed(cron, read.minutes, zone, after) if all_day else _on_the_wall(cron, zone, after)
    last = after
    for slot in slots:
        if slot > last:  # not before `after`, nor twice the moment that a gap made of several
            yield slot
            last = slot


def _elapsed(cron: str, minutes: set[int], zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """Walk minute by minute through the days that match. (cronsim leaps an hour at a time, past a change of half an
    hour.)"""
    instant = after.astimezone(UTC).replace(second=0, microsecond=0) + A_MINUTE
    yesterday = after.astimezone(zone).replace(tzinfo=None, fold=0) - A_DAY
    days = " ".join(["0", "0", *cron.split()[2:]])
    for day in CronSim(days, yesterday):
        instant = max(instant, _instant(day, zone))
        end = _instant(day + A_DAY, zone)
        while instant < end:
            if instant.astimezone(zone).minute in minutes:
                yield instant
            instant += A_MINUTE


def _on_the_wall(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    # In the second coming of an hour these begin with slots of the first, which lie before `after`.
    wall = after.astimezone(zone).replace(tzinfo=None, fold=0)
    for slot in CronSim(cron, wall):
        yield _instant(slot, zone)


def _instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return when the wall first shows this time; for one that it never shows, the first moment after the gap."""
    while True:
        instant = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
        if instant.astimezone(zone).replace(tzinfo=None) == wall:
            return instant
        wall += A_MINUTE
