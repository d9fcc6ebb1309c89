"""When a queue counts as saturated."""

from __future__ import annotations

from streamq.core.pressure import BUSY_PER_S, QUICK_PER_S, WINDOW_S, Pressure

STEP_S = 0.05


def claims_for(pressure: Pressure, seconds: float, per_s: float, *, since: float = 0.0, full: bool = True) -> float:
    now = since
    while now < since + seconds:
        now += STEP_S
        pressure.note(now, round(per_s * STEP_S), full=full)
    return now


def test_pressure_is_high_after_a_window_of_full_and_quick_claims() -> None:
    pressure = Pressure()
    now = claims_for(pressure, WINDOW_S - STEP_S, BUSY_PER_S * 2)
    assert not pressure.is_high(now)
    now = claims_for(pressure, 3 * STEP_S, BUSY_PER_S * 2, since=now)
    assert pressure.is_high(now)


def test_pressure_stays_low_when_few_are_claimed() -> None:
    pressure = Pressure()
    assert not pressure.is_high(claims_for(pressure, 10 * WINDOW_S, BUSY_PER_S / 2))


def test_short_claims_must_obtain_more_to_begin_with() -> None:
    pressure = Pressure()
    now = claims_for(pressure, 3 * WINDOW_S, QUICK_PER_S * 0.9, full=False)
    assert not pressure.is_high(now)
    now = claims_for(pressure, 3 * WINDOW_S, QUICK_PER_S * 1.2, since=now, full=False)
    assert pressure.is_high(now)


def test_once_it_is_high_it_takes_less_to_stay_so() -> None:
    pressure = Pressure()
    now = claims_for(pressure, 3 * WINDOW_S, QUICK_PER_S * 1.2)
    now = claims_for(pressure, 3 * WINDOW_S, BUSY_PER_S * 1.2, since=now, full=False)
    assert pressure.is_high(now)
    now = claims_for(pressure, 3 * WINDOW_S, BUSY_PER_S * 0.8, since=now, full=False)
    assert not pressure.is_high(now)


def test_what_only_the_stream_tells_of_ends_it_and_a_whole_window_must_pass_again() -> None:
    pressure = Pressure()
    now = claims_for(pressure, 3 * WINDOW_S, BUSY_PER_S * 2)
    pressure.forget()
    assert not pressure.is_high(now)
    now = claims_for(pressure, WINDOW_S / 2, BUSY_PER_S * 2, since=now)
    assert not pressure.is_high(now)


def test_a_pause_counts_for_neither_side_of_it() -> None:
    pressure = Pressure()
    now = claims_for(pressure, WINDOW_S / 2, BUSY_PER_S * 2) + 5 * WINDOW_S
    now = claims_for(pressure, WINDOW_S / 2, BUSY_PER_S * 2, since=now)
    assert not pressure.is_high(now)


def test_pressure_ends_when_claims_cease() -> None:
    pressure = Pressure()
    now = claims_for(pressure, 3 * WINDOW_S, BUSY_PER_S * 2)
    assert not pressure.is_high(now + 2 * WINDOW_S)
