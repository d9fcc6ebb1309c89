"""Gaps and recovery, by histories written by hand."""

from __future__ import annotations

import pytest

from tests.chaos.event import AnyEvent, Healed, Probed, Settled, Struck
from tests.chaos.outages import Gap, Outage, gaps, goes_on, outages
from tests.chaos.silence import Silence, longest


def settled(*instants: float) -> list[AnyEvent]:
    return [Settled(at=at, sent_at=at, id="t", claim="x", move="succeed", verdict="settled") for at in instants]


def probed(*instants: float) -> list[AnyEvent]:
    return [Probed(at=at, sent_at=at - 0.1) for at in instants]


def fault_at(from_s: float, to_s: float) -> list[AnyEvent]:
    return [Struck(at=from_s, fault="f", saying=""), Healed(at=to_s, fault="f")]


def test_longest_silence_counts_from_the_last_instant_before() -> None:
    assert longest([1.0, 2.0, 6.0, 7.0], 3.0, 8.0) == Silence(2.0, 6.0)


def test_longest_silence_is_to_the_end_when_nothing_comes_again() -> None:
    assert longest([1.0, 2.0], 3.0, 8.0) == Silence(2.0, 8.0)
    assert longest([], 3.0, 8.0) == Silence(3.0, 8.0)


def test_outage_tells_the_servers_from_streamqs() -> None:
    history = [
        Struck(at=10.0, fault="f", saying=""),
        Healed(at=14.0, fault="f"),
        *probed(9.5, 9.9, 13.0, 13.4, 14.1, 14.9, 15.4),
        *settled(9.7, 9.9, 15.0, 15.1),
    ]
    (one,) = outages(history, 0.0, 16.0)
    assert one.fault == "f"
    assert round(one.gap_s, 3) == 5.1
    assert round(one.server_gap_s, 3) == 3.1
    assert one.until_written_s == 3.0
    assert one.until_settled_s == 5.0


def test_gap_of_two_faults_is_one_and_has_the_servers_outage_though_it_began_before_the_second() -> None:
    history = [
        Struck(at=10.0, fault="f", saying=""),
        Struck(at=13.5, fault="g", saying=""),
        Healed(at=18.0, fault="f"),
        Healed(at=18.0, fault="g"),
        *probed(8.9, 9.7, 13.0, 13.7, 14.5, 15.3, 16.1),
        *settled(9.0, 9.8, 16.0, 16.4),
    ]
    longest_gap = max(gaps(history, 9.0, 16.5), key=lambda gap: gap.own_s)
    assert longest_gap == Gap(Silence(9.8, 16.0), 13.0 - 9.8, ("f", "g"))
    assert {round(one.gap_s - one.server_gap_s, 3) for one in outages(history, 9.0, 16.5)} == {3.0}


def test_server_is_out_as_often_as_it_is_in_one_gap() -> None:
    history = [*probed(1.0, 3.0, 3.5, 6.0, 6.5), *settled(1.0, 6.5)]
    (gap, _) = gaps(history, 1.0, 7.0)
    assert (gap.server_out_s, gap.own_s, gap.faults) == (4.5, 1.0, ())


def test_gap_after_a_fault_is_that_faults() -> None:
    history = [*fault_at(5.0, 6.0), *settled(7.0, 12.0)]
    assert [gap.faults for gap in gaps(history, 0.0, 12.0)] == [("f",), ("f",)]


def test_outage_of_a_fault_that_nothing_survived_has_no_recovery() -> None:
    (one,) = outages([Struck(at=10.0, fault="f", saying=""), *probed(9.0), *settled(9.0)], 0.0, 20.0)
    assert one == Outage("f", 11.0, 11.0, None, None)


def test_each_fault_is_measured_up_to_the_next() -> None:
    history = [
        Struck(at=10.0, fault="f", saying=""),
        Struck(at=20.0, fault="g", saying=""),
        *probed(9.0, 11.0, 21.0, 29.0),
        *settled(9.0, 12.0, 22.0, 29.5),
    ]
    first, second = outages(history, 0.0, 30.0)
    assert (first.until_settled_s, second.until_settled_s) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("history", "goes"),
    [
        ([*probed(9.0, 10.5), *settled(9.5, 11.0)], True),
        ([*probed(9.0), *settled(9.5, 11.0)], False),
        ([*probed(9.0, 11.0), *settled(9.5, 10.5)], False),
        ([*probed(9.0, 11.0, 12.0), *settled(11.5)], True),
    ],
)
def test_it_goes_on_once_a_task_is_settled_after_what_the_probe_wrote(history: list[AnyEvent], goes: bool) -> None:
    assert goes_on(history, 10.0) == goes
