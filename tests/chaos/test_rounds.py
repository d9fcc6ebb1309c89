"""A short round of each nemesis: nothing is lost, run though never put, torn, or written by a stale holder.

Time is judged by the order of an outage only: other programs may be at work on the machine.
"""

from __future__ import annotations

from random import Random

import pytest

from tests.chaos.conftest import SEED, Stage
from tests.chaos.nemeses import NEMESES, skipped
from tests.chaos.orders import LEASE_S
from tests.chaos.round import Round
from tests.chaos.schedule import Strike

LENGTH_S = 3.0
AT_S = 1.0
HOLDS_S = {"primary-killed": 4.0, "primary-frozen": 5.0, "worker-frozen": 4.5, "primary-isolated": 5.0, "one-way": 4.0}
"""The others are held for a second. The load lasts as long, and an election has to come to its end under load."""

IN_LONG_RUNS = {"majority-lost", "rolled-back", "clocks-apart"}
"""The first two have short tests of their own, which look closer; after the last the drain may take two minutes."""

ORDER_S = 30.0
"""More than an election, a slow client's second try and a lease; far less than for ever."""


def strike(name: str) -> Strike:
    seed = Random(f"{SEED} {name}").getrandbits(32)
    return Strike(AT_S, name, NEMESES[name]().lane, HOLDS_S.get(name, 1.0), seed)


@pytest.mark.chaos
@pytest.mark.parametrize("name", [name for name in NEMESES if name not in IN_LONG_RUNS])
def test_nothing_is_lost_or_stale(stage: Stage, name: str) -> None:
    if name in (without := skipped()):
        pytest.skip(without[name])
    report = stage.play(Round(name, SEED, LENGTH_S, [strike(name)]))
    assert report.is_good, str(report)
    assert report.exercised.acked > 50
    assert not report.exercised.lacks
    (outage,) = report.outages
    assert outage.until_settled_s is not None
    assert outage.gap_s < outage.server_gap_s + ORDER_S
    if outage.server_gap_s < LEASE_S:  # else leases end, more than one after the other, which no fault explains
        assert not report.unexcused, report.findings.unexcused
