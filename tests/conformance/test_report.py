"""Reporting progress, on both stores: fenced, newest wins, renews the lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamq.core.report import Report, Reported

if TYPE_CHECKING:
    from tests.conformance.conftest import Lab


def test_reports_are_stored_and_renew_each_lease(lab: Lab) -> None:
    one, other = lab.claimed(), lab.claimed()
    before = lab.stored(one.id)["lease_until"]
    lab.pass_time(10)
    reports = [Reported(one, Report(0.5, "$status")), Reported(other, Report(2**62))]
    assert lab.store.report(reports) == []
    stored = lab.stored(one.id)
    assert (stored["progress"]["value"], stored["progress"]["note"]) == (0.5, "$status")
    assert stored["lease_until"] >= before
    assert (stored["lease_until"] - stored["progress"]["at"]).total_seconds() == 30
    assert lab.stored(other.id)["progress"]["value"] == 2**62


def test_stale_reports_are_named_and_change_nothing(lab: Lab) -> None:
    stale, live = lab.claimed(), lab.claimed()
    lab.settle(stale, "release")
    (newer,) = lab.claim()
    assert lab.store.report([Reported(stale, Report(1)), Reported(live, Report(2))]) == [stale.id]
    assert "progress" not in lab.stored(newer.id)
    assert lab.stored(live.id)["progress"]["value"] == 2


def test_a_settlement_carries_the_last_word(lab: Lab) -> None:
    claim, other = lab.claimed(), lab.claimed()
    assert lab.settle(claim, "succeed", progress=Report(1.0, "$note")) == "settled"
    assert lab.stored(claim.id)["progress"]["note"] == "$note"
    assert lab.settle(other, "release") == "settled"
    assert "progress" not in lab.stored(other.id)


def test_a_report_of_nothing_is_nothing(lab: Lab) -> None:
    assert lab.store.report([]) == []
