"""What a round came to, as a row of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from tests.chaos.exercise import Exercise
from tests.chaos.findings import Findings
from tests.chaos.outages import OVER_S, Gap, Outage


class Report(msgspec.Struct, frozen=True):
    """Of one round."""

    name: str
    seed: int
    length_s: float
    findings: Findings
    outages: tuple[Outage, ...]
    gaps: tuple[Gap, ...]
    """Of which more than `OVER_S` was not the server's."""
    drained: bool
    history: str
    exercised: Exercise
    """By its own events: `findings` are of all that its scene has seen."""
    unexcused: int = 0
    """Repetitions of its own tasks that no fault explains."""

    @property
    def is_good(self) -> bool:
        """Say whether nothing is wrong that must never be, and the auditor has seen all: where it has missed something
        less is asked, and what is wrong might not be found."""
        return self.drained and self.findings.audited and not self.findings.violations

    @property
    def worst(self) -> Outage | None:
        """The fault with the worst gap."""
        return max(
            self.outages, key=lambda one: (max(0.0, one.gap_s - one.server_gap_s - OVER_S), one.gap_s), default=None
        )

    @property
    def shortfalls(self) -> list[str]:
        """What is allowed to happen, and is not as good as it is meant to be."""
        found = [
            f"{self.name}: nothing was settled for {one.silence.length_s:.1f} s ({' and '.join(one.faults)}), of which "
            f"the server was out for {one.server_out_s:.1f} s"
            for one in self.gaps
        ]
        found += [f"{self.name}: nothing was {name}, so that nothing of it was tested" for name in self.exercised.lacks]
        if self.unexcused:
            found.append(f"{self.name}: {self.unexcused} repetitions that no fault explains")
        if self.findings.failed:
            found.append(f"{self.name}: {self.findings.failed} tasks failed though no payload asked for it")
        return found

    def __str__(self) -> str:
        state = "good" if self.is_good else f"BAD, its history is in {self.history}"
        drained = "" if self.drained else "\nthe drain did not come to its end"
        audited = "" if self.findings.audited else "\nthe auditor has missed something"
        return f"{self.name} (seed {self.seed}): {state}{drained}{audited}\n{self.figures}\n{self.findings}"

    @property
    def figures(self) -> str:
        """Say in a line what the table says of it. The times are those of the worst fault."""
        found, worst = self.findings, self.worst
        counts = found.counts
        return (
            f"puts tried {found.tried:,} / acknowledged {found.acked:,}, lost {counts['lost']}, "
            f"begun twice with one attempt {counts['twice']}, "
            f"duplicated {sum(found.duplicated.values()):,}, stale {_stale(found)}, "
            f"longest gap without progress {_s(worst, 'gap_s')} s (server out {_s(worst, 'server_gap_s')} s), "
            f"recovery {_s(worst, 'until_settled_s')} s (a new client writes after {_s(worst, 'until_written_s')} s); "
            f"{self.exercised}"
        )


HEADS: Final = (
    "nemesis",
    "faults",
    "puts tried",
    "acknowledged",
    "unknown",
    "recovered",
    "lost",
    "phantom",
    "stale",
    "duplicated",
    "longest gap s",
    "server out s",
    "until written s",
    "until settled s",
)


def table(reports: Iterable[Report]) -> str:
    """Draw all of them as a table of Markdown. The four figures of time are those of the worst fault of each round."""
    rows = [HEADS, tuple("---" for _ in HEADS), *map(_row, reports)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(report: Report) -> Sequence[str]:
    found, worst = report.findings, report.worst
    counts = found.counts
    return (
        report.name,
        str(len(report.outages)),
        f"{found.tried:,}",
        f"{found.acked:,}",
        f"{found.unknown:,}",
        f"{len(found.recovered):,}",
        str(counts["lost"]),
        str(counts["phantom"]),
        str(_stale(found)),
        f"{sum(found.duplicated.values()):,}",
        _s(worst, "gap_s"),
        _s(worst, "server_gap_s"),
        _s(worst, "until_written_s"),
        _s(worst, "until_settled_s"),
    )


def _stale(found: Findings) -> int:
    """Count what was written by who should not have, or not as it should be."""
    return sum(found.counts[kind] for kind in ("stale", "torn", "unrun", "twice"))


def _s(outage: Outage | None, name: str) -> str:
    seconds = getattr(outage, name, None)
    return "-" if seconds is None else f"{seconds:.1f}"
