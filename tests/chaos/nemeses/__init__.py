"""The nemeses, one kind a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tests import clocks
from tests.chaos.nemeses.clock import ClockBehind, ClocksApart
from tests.chaos.nemeses.election import ForcedElection, StepDown
from tests.chaos.nemeses.majority import MajorityLost, RolledBack
from tests.chaos.nemeses.partition import ClientsCutOff, OneWay, PrimaryIsolated
from tests.chaos.nemeses.primary import PrimaryFrozen, PrimaryKilled
from tests.chaos.nemeses.producer import ProducerKilled
from tests.chaos.nemeses.rolling import RollingRestart
from tests.chaos.nemeses.worker import WorkerFrozen, WorkerKilled
from tests.chaos.nemesis import Nemesis
from tests.chaos.network import reason

NEMESES: Final[Mapping[str, Callable[[], Nemesis]]] = {
    made.name: made
    for made in (
        PrimaryKilled,
        PrimaryFrozen,
        StepDown,
        ForcedElection,
        RollingRestart,
        MajorityLost,
        RolledBack,
        PrimaryIsolated,
        ClientsCutOff,
        OneWay,
        ClockBehind,
        ClocksApart,
        WorkerKilled,
        WorkerFrozen,
        ProducerKilled,
    )
}
"""By name. A new one is added here, and gets its row in docs/reliability.md and its short round."""


CLOCKS: Final = (ClockBehind.name, ClocksApart.name)


def skipped() -> dict[str, str]:
    """Return those that cannot be on this machine, each with the reason."""
    without = {name: why for name, made in NEMESES.items() if made().needs_network and (why := reason()) is not None}
    return without if clocks.library() else without | dict.fromkeys(CLOCKS, clocks.MISSING)
