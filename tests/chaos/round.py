"""A round: load, strikes at their times, a complete drain, the check."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

import msgspec

from tests.chaos.checker import check
from tests.chaos.event import Healed, Struck, Tried
from tests.chaos.exercise import exercised
from tests.chaos.nemeses import NEMESES
from tests.chaos.nemesis import Lane, Nemesis
from tests.chaos.outages import OVER_S, gaps, goes_on, outages
from tests.chaos.report import Report
from tests.chaos.scene import POLL_S, STILL_S, Scene
from tests.chaos.schedule import Strike
from tests.patience import eventually

GO_ON_S: Final = 60.0
"""How long a round waits for the first task that is settled after the last fault; the drain waits longer."""


class Round(msgspec.Struct, frozen=True):
    """What is to be done."""

    name: str
    seed: int
    length_s: float
    strikes: Sequence[Strike]
    still_s: float = STILL_S
    """How long nothing may move before the drain is given up."""

    def __str__(self) -> str:
        plan = "".join(f"\n  {strike}" for strike in self.strikes)
        return f"{self.name}: {self.length_s:.0f} s of load, seed {self.seed}{plan}"


def play(scene: Scene, round: Round, say: Callable[[str], None] = print) -> Report:
    """Play one round on a scene that may have seen others: it is judged with all that was before."""
    say(str(round))
    began_at = time.monotonic()
    scene.go_on()
    Strikes(scene, round, say).run()
    _wait_goes_on(scene)
    ends_at = time.monotonic()
    scene.pause()
    drained = scene.drain(round.still_s)
    history, stored = scene.books()
    own = [event for event in history if event.at >= began_at]
    put = {id for event in own if isinstance(event, Tried) for id in event.ids}
    findings = check(history, stored)
    report = Report(
        name=round.name,
        seed=round.seed,
        length_s=ends_at - began_at,
        findings=findings,
        outages=tuple(outages(own, began_at, ends_at)),
        gaps=tuple(gap for gap in gaps(own, began_at, ends_at) if gap.own_s > OVER_S),
        drained=drained,
        history=str(scene.directory),
        exercised=exercised(own),
        unexcused=sum(count for id, count in findings.unexcused.items() if id in put),
    )
    if not report.is_good or report.shortfalls:
        scene.keep()
        (scene.directory / "stored.json").write_bytes(msgspec.json.encode(stored))
    return report


class Strikes:
    """The faults of one round, in the run's only thread: what it starts dies with that."""

    def __init__(self, scene: Scene, round: Round, say: Callable[[str], None]) -> None:
        self._scene = scene
        self._round = round
        self._say = say
        self._to_come = list(round.strikes)
        self._on: dict[Lane, tuple[Nemesis, float]] = {}

    def run(self) -> None:
        """Strike until there is nothing more to come and the load has lasted as long as it should."""
        began_at = time.monotonic()
        try:
            while self._to_come or self._on or time.monotonic() < began_at + self._round.length_s:
                self._stop_those_due()
                self._start_those_due(time.monotonic() - began_at)
                if self._scene.deaths():
                    return  # the check will say so
                time.sleep(POLL_S)
        finally:
            self._scene.mend()

    def _start_those_due(self, now_s: float) -> None:
        for strike in [one for one in self._to_come if one.at_s <= now_s]:
            if strike.lane in self._on:
                continue  # what stopped the one before took its time
            self._to_come.remove(strike)
            nemesis = NEMESES[strike.nemesis]()
            at = time.monotonic()
            saying = nemesis.start(self._scene, Random(strike.seed))
            self._scene.note(Struck(at=at, fault=strike.nemesis, saying=saying))
            self._say(f"  {now_s:7.1f} s  {strike.nemesis}: {saying}")
            self._on[strike.lane] = nemesis, time.monotonic() + strike.hold_s

    def _stop_those_due(self) -> None:
        for lane, (nemesis, until) in list(self._on.items()):
            if until <= time.monotonic():
                nemesis.stop(self._scene)
                self._scene.note(Healed(at=time.monotonic(), fault=nemesis.name))
                del self._on[lane]


def _wait_goes_on(scene: Scene) -> None:
    """Wait until it goes on as it is measured: the store knows of a settlement before its worker notes it, and each of
    the probe's tries that a fault holds up may take seconds more."""
    mended_at = time.monotonic()
    eventually(lambda: goes_on([*scene.lately("probe"), *scene.lately("worker")], mended_at), GO_ON_S)
