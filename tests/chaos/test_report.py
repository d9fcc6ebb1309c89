"""What a report says of a round, and when it is not good."""

from __future__ import annotations

import msgspec

from tests.chaos.event import Acked, AnyEvent, Began, Kept
from tests.chaos.exercise import Exercise, exercised
from tests.chaos.findings import Findings, Violation
from tests.chaos.outages import Outage
from tests.chaos.report import Report, table

OUTAGE = Outage("f", gap_s=3.14, server_gap_s=3.0, until_written_s=2.9, until_settled_s=3.2)
FINDINGS = Findings(tried=1_234, acked=1_230, ended=1_230, duplicated={"t": 2})
REPORT = Report("f", 7, 60.0, FINDINGS, (OUTAGE,), (), True, "place", Exercise(1_230, 40, 50, 120))


def finding(**more: object) -> Report:
    return msgspec.structs.replace(REPORT, findings=msgspec.structs.replace(FINDINGS, **more))


def test_round_without_a_finding_is_good() -> None:
    assert REPORT.is_good
    assert REPORT.shortfalls == []


def test_round_that_was_not_audited_throughout_is_not_good_and_says_so() -> None:
    report = finding(audited=False)
    assert not report.is_good
    assert "BAD" in str(report)
    assert "the auditor has missed something" in str(report)


def test_round_with_a_violation_or_whose_drain_did_not_end_is_not_good() -> None:
    assert not finding(violations=(Violation("stale", "t", "why"),)).is_good
    assert not msgspec.structs.replace(REPORT, drained=False).is_good


def test_round_in_which_nothing_was_extended_or_reported_falls_short() -> None:
    report = msgspec.structs.replace(REPORT, exercised=Exercise(1_230, 0, 0, 120))
    assert report.is_good
    assert [line.split(",")[0] for line in report.shortfalls] == [
        "f: nothing was extended",
        "f: nothing was reported",
    ]


def test_repetitions_that_no_fault_explains_fall_short() -> None:
    assert msgspec.structs.replace(REPORT, unexcused=2).shortfalls == ["f: 2 repetitions that no fault explains"]


def test_report_says_the_figures_of_its_round() -> None:
    assert (
        "puts tried 1,234 / acknowledged 1,230, lost 0, begun twice with one attempt 0, "
        "duplicated 2, stale 0, longest gap without progress 3.1 s "
        "(server out 3.0 s), recovery 3.2 s (a new client writes after 2.9 s)"
    ) in str(REPORT)
    assert table([REPORT]).endswith("| 3.1 | 3.0 | 2.9 | 3.2 |")


def test_exercise_counts_what_took_effect() -> None:
    history: list[AnyEvent] = [
        Acked(at=1.0, ids=["t", "u"]),
        Acked(at=2.0, ids=["u"]),
        Kept(at=3.0, sent_at=3.0, by="extend", held=[("t", "x"), ("u", "y")]),
        Kept(at=3.0, sent_at=3.0, by="renew", held=[("t", "x")]),
        Kept(at=3.0, sent_at=3.0, by="progress", held=[("t", "x")]),
        Began(at=4.0, id="t", claim="x", attempt=1),
        Began(at=4.0, id="u", claim="y", attempt=1, once=True),
    ]
    assert exercised(history) == Exercise(acked=2, extended=3, reported=1, once=1)
