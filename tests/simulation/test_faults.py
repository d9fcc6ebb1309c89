"""What goes wrong goes wrong as it is meant to."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from streamq.core.wake import Wake
from tests.chaos.event import AnyEvent, Began, Closed, Ended, Kept, Settled
from tests.simulation.plan import Call, Fault, Freeze, Host, Kill, Limit, Outage, Pause, Plan, Put, Silence, Stall
from tests.simulation.run import play
from tests.simulation.stream import Stream

TWO = (Host("w0"), Host("w1", starts_at=0.2))
LAGGING = (Host("w0", slots=3, offset_s=85_761.0, lag_s=0.02),)


def history(*faults: Fault, run_s: float = 2.5) -> list[AnyEvent]:
    """Play one task that takes longer than half of a lease on two hosts, of which the first has it."""
    seen = play(Plan(1, TWO, (Put(0, at=0.1, run_s=run_s),), (), faults, lease_s=3.0))
    assert not seen.verdict, seen.verdict
    return list(seen.history)


def test_without_a_fault_a_task_runs_once() -> None:
    told = history()
    assert sum(isinstance(one, Began) for one in told) == 1
    assert [one.status for one in told if isinstance(one, Closed)] == ["succeeded"]


def test_frozen_host_does_nothing_until_it_goes_on_and_another_takes_its_task() -> None:
    told = history(Freeze("w0", 0.5, 8.0))
    first, second = (one for one in told if isinstance(one, Began))
    assert first.claim != second.claim
    assert 3.0 < second.at < 4.0
    of_first = [one for one in told if isinstance(one, Ended | Kept | Settled) and first.claim in str(one)]
    assert of_first
    assert all(one.at >= 8.5 for one in of_first)


def test_killed_host_is_heard_of_no_more() -> None:
    told = history(Kill("w0", 0.5, 20.0))
    first, second = (one for one in told if isinstance(one, Began))
    assert second.at > first.at + 2
    assert not [one for one in told if isinstance(one, Ended | Settled) and one.claim == first.claim]


def test_stalled_host_goes_on_and_its_late_settlement_is_refused() -> None:
    told = history(Stall("w0", 1.5, 6.0), run_s=1.6)
    first = next(one for one in told if isinstance(one, Began))
    (late,) = (one for one in told if isinstance(one, Settled) and one.claim == first.claim)
    assert late.verdict == "lost"
    assert late.sent_at < 3.0 < 7.0 < late.at


WHILE_STALLED = (Stall("w0", 0.2, 5.5), Silence("w0", 0.2, 3.0))


@pytest.mark.parametrize("reorders", [False, True])
@pytest.mark.parametrize("faults", [WHILE_STALLED[:1], WHILE_STALLED])
def test_wake_that_is_held_up_comes_when_the_stall_is_over(faults: tuple[Fault, ...], reorders: bool) -> None:
    seen = play(Plan(1, (Host("w0", reorders=reorders),), (Put(0, at=0.6),), (), faults))
    assert not seen.verdict
    (began,) = (one for one in seen.history if isinstance(one, Began))
    assert 5.7 < began.at < 6.0


def test_wake_that_is_lost_in_a_stall_is_found() -> None:
    """Nobody looks at the queue when a stall is over: the stream is whole, its bytes come late."""
    tell = Stream.tell

    def lose(self: Stream, wake: Wake) -> None:
        if self._process.stalled_until <= self._world.now:
            tell(self, wake)

    with patch.object(Stream, "tell", lose):
        seen = play(Plan(1, (Host("w0"),), (Put(0, at=0.6),), (), WHILE_STALLED[:1]))
    assert {one.kind for one in seen.verdict} >= {"late"}


def test_a_run_does_not_end_before_its_producer_has_begun() -> None:
    seen = play(Plan(1, (Host("w0"),), (Put(0, at=0.6),), ()))
    assert [one.status for one in seen.history if isinstance(one, Closed)] == ["succeeded"]


def test_task_that_a_process_does_not_take_since_it_stops_is_not_late() -> None:
    """It has a slot that is free, and ends once the other is."""
    hosts = (Host("w0", slots=1), Host("w1", starts_at=0.5, stops_at=1.0, stops_in_order=True))
    seen = play(Plan(1, hosts, (Put(0, at=0.1, run_s=11.0), Put(1, at=0.7, run_s=11.0), Put(2, at=2.0)), lease_s=20.0))
    assert not seen.verdict


def test_a_run_does_not_end_before_a_put_has_come_whose_sender_is_dead() -> None:
    put = Put(0, at=2.2, by="w0")
    seen = play(
        Plan(916_112, (Host("w0"),), (put,), (), (Kill("w0", at=2.3), Stall("w0", at=1.0, for_s=6.0)), lease_s=4.0)
    )
    assert not seen.verdict


def test_task_that_is_passed_over_again_and_again_is_not_late() -> None:
    """In a queue that runs one at a time its place is free for some lags whenever one has ended."""
    urgent = tuple(Put(n, at=0.5, run_s=0.2, priority=1) for n in range(2, 32))
    first, last = Put(0, at=0.1, run_s=6.5, priority=1), Put(1, at=0.6)
    plan = Plan(1, (Host("w0", lag_s=0.05),), (first, *urgent, last), (), limits=(Limit(running=1),), lease_s=20.0)
    assert not play(plan).verdict


def test_settlement_whose_reply_is_lost_is_read_back() -> None:
    told = history(Call("w0", "settle", 1, "after"), run_s=0.1)
    assert len([one for one in told if isinstance(one, Closed)]) == 1
    assert [one.verdict for one in told if isinstance(one, Settled)] == ["settled"]


def test_put_that_comes_late_and_is_refused_then_comes_to_nothing() -> None:
    """Of two that ride together and are lost one is the other's parent and has a key: each is put again alone."""
    puts = (Put(2, at=0.1, unique="u", after=0), Put(8, at=0.1, after=2), Put(10, at=0.3615, unique="u"))
    seen = play(Plan(702_002, LAGGING, (*puts, Put(11, at=0.0721)), (), (Outage("all", 0.0348, 0.2126),), lease_s=4.0))
    assert not seen.verdict
    assert sum(isinstance(one, Closed) for one in seen.history) == 3


def test_pause_that_comes_late_does_not_outlast_its_resume() -> None:
    """Its sender hears at once that it is lost, pauses again and resumes while the first is on its way."""
    late = Call("producer", "pause", 1, "late", hold_s=0.0, late_s=1.0)
    seen = play(Plan(1, TWO, (Put(0, at=2.0),), (Pause("a", 0.3, 0.1),), (late,)))
    assert not seen.verdict


def test_pause_and_resume_that_are_held_up_together_keep_their_order() -> None:
    """They come at one instant, which must not be another one by rounding."""
    host, put = Host("w0", lag_s=0.05), Put(0, at=0.0618)
    seen = play(
        Plan(510766, (host,), (put,), (Pause("a", 1.3306, 0.5577),), (Stall("w0", 0.2062, 5.5984),), lease_s=4.0)
    )
    assert not seen.verdict
