"""What goes wrong goes wrong as it is meant to."""

from __future__ import annotations

from tests.chaos.event import AnyEvent, Began, Closed, Ended, Kept, Settled
from tests.simulation.plan import Call, Fault, Freeze, Host, Kill, Plan, Put, Stall
from tests.simulation.run import play

TWO = (Host("w0"), Host("w1", starts_at=0.2))


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


def test_settlement_whose_reply_is_lost_is_read_back() -> None:
    told = history(Call("w0", "settle", 1, "after"), run_s=0.1)
    assert len([one for one in told if isinstance(one, Closed)]) == 1
    assert [one.verdict for one in told if isinstance(one, Settled)] == ["settled"]
