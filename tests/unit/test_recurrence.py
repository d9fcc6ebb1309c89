"""Which slots there are, and which are fired: changes of the clock, grids, rules for what was missed, and refusals."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamq.core.recurrence import (
    MOST_MISSED,
    Recurrence,
    due,
    next_slot,
    recurrence_of,
    recurrence_of_text,
    slots_after,
)
from streamq.errors import OptionInvalid

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

SPRING = {"Europe/Berlin": datetime(2026, 3, 29), "America/New_York": datetime(2026, 3, 8)}
AUTUMN = {"Europe/Berlin": datetime(2026, 10, 25), "America/New_York": datetime(2026, 11, 1)}
CHANGES = [(zone, day) for days in (SPRING, AUTUMN) for zone, day in days.items()]
# Half an hour at two; at midnight; none.
ODD = [
    ("Australia/Lord_Howe", datetime(2026, 10, 4)),
    ("Australia/Lord_Howe", datetime(2026, 4, 5)),
    ("America/Santiago", datetime(2026, 9, 6)),
    ("America/Santiago", datetime(2026, 4, 5)),
    ("UTC", datetime(2026, 3, 29)),
]


def recurring(**said: Any) -> Recurrence:
    given = {"cron": None, "tz": None, "every_s": None, "missed": None, "overlap": None}
    found = recurrence_of(**(given | said))
    assert found is not None
    return found


def of_day(cron: str, zone: str, day: datetime) -> list[str]:
    """The slots of one day, as that zone's clock shows them, with the offset in hours."""
    tz = ZoneInfo(zone)
    begin = day.replace(tzinfo=tz).astimezone(UTC)
    end = (day + timedelta(days=1)).replace(tzinfo=tz).astimezone(UTC)
    slots = slots_after(recurring(cron=cron, tz=zone), NOON, begin - timedelta(milliseconds=1))
    return [f"{slot.astimezone(tz):%H:%M %z}"[:-2] for slot in itertools.takewhile(lambda slot: slot < end, slots)]


# --- changes of the clock ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("zone", "offset"), [("Europe/Berlin", "+02"), ("America/New_York", "-04")])
def test_daily_slot_that_does_not_exist_comes_once_when_the_gap_ends(zone: str, offset: str) -> None:
    assert of_day("30 2 * * *", zone, SPRING[zone]) == [f"03:00 {offset}"]


@pytest.mark.parametrize(("zone", "hour", "offset"), [("Europe/Berlin", 2, "+02"), ("America/New_York", 1, "-04")])
def test_daily_slot_that_exists_twice_comes_the_first_time_only(zone: str, hour: int, offset: str) -> None:
    assert of_day(f"30 {hour} * * *", zone, AUTUMN[zone]) == [f"0{hour}:30 {offset}"]


@pytest.mark.parametrize(("zone", "day"), CHANGES)
@pytest.mark.parametrize("hours", ["*", "0-23", "*/1"])
def test_hourly_slots_come_each_hour_that_passes(zone: str, day: datetime, hours: str) -> None:
    slots = slots_after(recurring(cron=f"5 {hours} * * *", tz=zone), NOON, day.replace(tzinfo=UTC))
    some = list(itertools.islice(slots, 40))
    assert {later - one for one, later in itertools.pairwise(some)} == {timedelta(hours=1)}


def test_slots_that_a_gap_makes_one_come_once() -> None:
    assert of_day("0 2,3 * * *", "Europe/Berlin", SPRING["Europe/Berlin"]) == ["03:00 +02"]


def test_every_other_hour_is_a_time_on_the_wall() -> None:
    assert of_day("0 */8 * * *", "Europe/Berlin", SPRING["Europe/Berlin"]) == ["00:00 +01", "08:00 +02", "16:00 +02"]
    assert of_day("0 0-4/2 * * *", "Europe/Berlin", AUTUMN["Europe/Berlin"]) == [
        "00:00 +02",
        "02:00 +02",
        "04:00 +01",
    ]


@cache
def wall(zone: str, day: datetime) -> list[tuple[datetime, int, list[datetime]]]:
    """Look at a wall each minute of four days: when, its minute, and what it shows or passes for the first time."""
    tz = ZoneInfo(zone)
    instant = (day - timedelta(days=1)).replace(tzinfo=tz).astimezone(UTC)
    shown = instant.astimezone(tz).replace(tzinfo=None) - MINUTE
    seen = []
    for _ in range(4 * 24 * 60):
        now = instant.astimezone(tz).replace(tzinfo=None)
        passed = [shown + n * MINUTE for n in range(1, (now - shown) // MINUTE + 1)]
        seen.append((instant, now.minute, passed))
        shown = max(shown, now)
        instant += MINUTE
    return seen


def expected(minutes: set[int], hours: set[int], seen: list[tuple[datetime, int, list[datetime]]]) -> list[datetime]:
    if len(hours) == 24:
        return [instant for instant, minute, _ in seen if minute in minutes]
    return [
        instant for instant, _, passed in seen if any(one.minute in minutes and one.hour in hours for one in passed)
    ]


@settings(max_examples=25, deadline=None)
@given(
    change=st.sampled_from(CHANGES + ODD),
    minutes=st.sets(st.integers(0, 59), min_size=1, max_size=4),
    hours=st.one_of(st.just(set(range(24))), st.sets(st.integers(0, 4), min_size=1)),
    after_s=st.integers(-8 * 3600, 8 * 3600),
)
@example(("Europe/Berlin", AUTUMN["Europe/Berlin"]), {30}, {2}, 5_400)
@example(("Europe/Berlin", SPRING["Europe/Berlin"]), {0, 30}, {2, 3}, 0)
@example(("America/Santiago", datetime(2026, 4, 5)), {0}, {0}, -1)
def test_slots_are_those_that_a_look_at_the_wall_each_minute_finds(
    change: tuple[str, datetime], minutes: set[int], hours: set[int], after_s: int
) -> None:
    zone, day = change
    begin = day.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) + timedelta(seconds=after_s)
    end = begin + timedelta(days=1)
    cron = f"{','.join(map(str, sorted(minutes)))} {','.join(map(str, sorted(hours)))} * * *"
    slots = slots_after(recurring(cron=cron, tz=zone), NOON, begin)
    assert list(itertools.takewhile(lambda slot: slot <= end, slots)) == [
        slot for slot in expected(minutes, hours, wall(zone, day)) if begin < slot <= end
    ]


# --- the grid ------------------------------------------------------------------------------------------------------


@given(every_s=st.floats(1, 10_000), after_s=st.floats(0, 10_000_000).map(lambda seconds: timedelta(seconds=seconds)))
def test_grid_is_counted_from_its_anchor_and_never_drifts(every_s: float, after_s: timedelta) -> None:
    recurrence = recurring(every_s=every_s)
    slot = next_slot(recurrence, NOON, NOON + after_s)
    assert slot is not None
    step = timedelta(milliseconds=round(every_s * 1000))
    assert timedelta(0) < slot - (NOON + after_s) <= step
    assert (slot - NOON) % step == timedelta(0)
    assert slot > NOON


# --- what was missed -----------------------------------------------------------------------------------------------


def hours(*ahead: float) -> tuple[datetime, ...]:
    return tuple(NOON + timedelta(hours=one) for one in ahead)


@pytest.mark.parametrize(
    ("missed", "now_h", "fired"),
    [
        ("latest", 0.001, hours(0)),
        ("latest", 3.5, hours(3)),
        ("all", 3.5, hours(0, 1, 2, 3)),
        ("none", 0.001, hours(0)),
        ("none", 0.5, ()),
        ("none", 3.5, ()),
        ("none", 3.001, hours(3)),
    ],
)
@pytest.mark.parametrize("said", [{"cron": "0 * * * *"}, {"every_s": 3600}])
def test_slots_that_have_come_are_fired_by_the_rule(
    missed: str, now_h: float, fired: tuple[datetime, ...], said: dict[str, Any]
) -> None:
    now = NOON + timedelta(hours=now_h)
    decided = due(recurring(missed=missed, **said), NOON - timedelta(days=1), NOON, now)
    assert decided.slots == fired
    assert (decided.last_slot_at, decided.next_at) == hours(int(now_h), int(now_h) + 1)


def test_slot_that_was_announced_is_one_whatever_its_zone_says_now() -> None:
    decided = due(recurring(cron="30 5 * * *"), NOON, NOON, NOON + MINUTE)
    assert (decided.slots, decided.next_at) == ((NOON,), NOON + timedelta(hours=17.5))


def test_a_year_of_missed_minutes_is_decided_at_once() -> None:
    now = NOON + timedelta(days=365)
    latest = due(recurring(cron="* * * * *", tz="Europe/Berlin"), NOON, NOON, now)
    assert latest.slots == (now,)
    everything = due(recurring(every_s=60, missed="all"), NOON, NOON, now)
    assert len(everything.slots) == MOST_MISSED
    assert everything.slots[-1] == now
    assert everything.slots[0] == now - (MOST_MISSED - 1) * MINUTE


# --- the text ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {"cron": " */5  9-17 * jan mon-fri ", "tz": "Europe/Berlin", "missed": "none", "overlap": False},
        {"every_s": 1.5, "missed": "all"},
    ],
)
def test_stored_text_reads_as_what_was_declared(said: dict[str, Any]) -> None:
    one = recurring(**said)
    assert recurrence_of_text(one.spec, one.missed, one.overlap) == one


@pytest.mark.parametrize("spec", [None, 5, "", "every 5 s", "cron * * * * *", "cron * * * * * Europe/Nowhere"])
def test_stored_text_of_somebody_else_is_refused(spec: object) -> None:
    with pytest.raises(OptionInvalid):
        recurrence_of_text(spec, "latest", True)


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "option"),
    [
        ({"cron": "* * * * *", "every_s": 5}, "every_s"),
        ({"tz": "UTC"}, "tz"),
        ({"missed": "all"}, "missed"),
        ({"overlap": False}, "overlap"),
        ({"every_s": 5, "tz": "UTC"}, "tz"),
        ({"cron": "* * * *"}, "cron"),
        ({"cron": "0 0 * * * *"}, "cron"),
        ({"cron": "@daily"}, "cron"),
        ({"cron": "60 * * * *"}, "cron"),
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"cron": "* * */20 * 1L"}, "cron"),
        ({"cron": 5}, "cron"),
        ({"cron": "* * * * *", "tz": "Europe/Nowhere"}, "tz"),
        ({"cron": "* * * * *", "tz": "../etc"}, "tz"),
        ({"cron": "* * * * *", "tz": 1}, "tz"),
        ({"every_s": 0.5}, "every_s"),
        ({"every_s": True}, "every_s"),
        ({"every_s": "5"}, "every_s"),
        ({"every_s": float("nan")}, "every_s"),
        ({"every_s": 1e12}, "every_s"),
        ({"every_s": 5, "missed": "some"}, "missed"),
        ({"every_s": 5, "missed": []}, "missed"),
        ({"every_s": 5, "overlap": "no"}, "overlap"),
        ({"every_s": 5, "overlap": False, "missed": "all"}, "missed"),
    ],
)
def test_declaration_that_cannot_recur_is_refused_by_name(said: dict[str, Any], option: str) -> None:
    with pytest.raises(OptionInvalid) as caught:
        recurring(**said)
    assert caught.value.option == option


def test_declaration_without_recurrence_is_none() -> None:
    assert recurrence_of(None, None, None, None, None) is None
