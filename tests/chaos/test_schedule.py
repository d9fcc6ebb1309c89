"""The schedule: the same seed, the same faults."""

from __future__ import annotations

from tests.chaos.__main__ import rounds
from tests.chaos.nemeses import NEMESES
from tests.chaos.schedule import LANES, strikes


def test_schedule_is_repeated_by_its_seed() -> None:
    names = list(NEMESES)
    assert strikes(7, NEMESES, names, 600.0) == strikes(7, NEMESES, names, 600.0)
    assert strikes(7, NEMESES, names, 600.0) != strikes(8, NEMESES, names, 600.0)


def test_faults_of_one_kind_come_one_after_the_other() -> None:
    planned = strikes(7, NEMESES, list(NEMESES), 600.0)
    for lane in LANES:
        own = [one for one in planned if one.lane == lane]
        assert len(own) > 5
        ends = [one.at_s + one.hold_s for one in own]
        assert all(end < one.at_s for end, one in zip(ends, own[1:], strict=False))


def test_long_run_has_each_nemesis_alone_and_all_of_them_mixed() -> None:
    planned = rounds(7, list(NEMESES), 3_600.0)
    assert [one.name for one in planned] == [*NEMESES, "mixed", "mixed", "mixed"]
    assert round(sum(one.length_s for one in planned), 6) == 3_600.0
    assert {strike.nemesis for one in planned for strike in one.strikes} == set(NEMESES)
