"""A run: all contenders in turns, and what was found of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime

import msgspec

from bench.peers import ground, play
from bench.peers.contender import Contender, Kind
from bench.peers.ground import Ground, Mongo, ServerMissing
from bench.peers.process import Program, ProgramFailed
from bench.peers.result import Entry, Run, quantiles_ms
from bench.peers.table import FLOOR, OURS
from streamq.bench.machine import machine

Say = Callable[[str], None]

OTHER_SERVERS: Mapping[Kind, Callable[[], AbstractContextManager[Ground]]] = {
    "postgres": ground.postgres,
    "redis": ground.redis,
}


class Asked(msgspec.Struct, frozen=True):
    """How much to measure. `tasks` None: as many as take about `seconds`, for each queue. No round is begun that would
    end after `limit_s`, as far as the longest one before tells; the first is always played."""

    rounds: int = 3
    seconds: float = 3.0
    rate: float = 100.0
    tasks: int | None = None
    limit_s: float = 570.0


def measure(contenders: Sequence[Contender], asked: Asked, *, uri: str | None = None, say: Say = print) -> Run:
    """Measure those of the contenders that can take part here; every round begins with another of them."""
    began = time.monotonic()
    with ExitStack() as stack:
        mongo = stack.enter_context(ground.mongo(uri))
        about = machine(mongo.uri)
        grounds, skipped = _grounds(contenders, mongo, stack)
        for name, why in skipped.items():
            say(f"{name} does not take part: {why}")
        playing = [Turns(one, grounds[one.kind], asked, say) for one in contenders if one.name not in skipped]
        run = Run(
            at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            machine=about,
            rounds=asked.rounds,
            seconds=asked.seconds,
            rate=asked.rate,
            entries=[turns.entry for turns in playing],
            skipped=skipped,
        )
        run.rounds, longest_s = 0, 0.0
        while run.rounds < asked.rounds and time.monotonic() - began + longest_s < asked.limit_s:
            round_began = time.monotonic()
            for turns in turned(playing, run.rounds):
                turns.play(run.rounds)
            run.rounds += 1
            longest_s = max(longest_s, time.monotonic() - round_began)
    for turns in playing:
        turns.pool()
    run.took_s = round(time.monotonic() - began, 1)
    return run


def _grounds(
    contenders: Sequence[Contender], mongo: Mongo, stack: ExitStack
) -> tuple[dict[Kind, Ground], dict[str, str]]:
    """Start the servers that are needed; say who cannot take part, and why."""
    grounds: dict[Kind, Ground] = {"mongo": mongo}
    absent: dict[Kind, str] = {}
    for kind in {one.kind for one in contenders if one.missing is None} - {"mongo"}:
        try:
            grounds[kind] = stack.enter_context(OTHER_SERVERS[kind]())
        except ServerMissing as error:
            absent[kind] = str(error)
    whys = {one.name: one.missing or absent.get(one.kind) for one in contenders}
    return grounds, {name: why for name, why in whys.items() if why is not None}


def turned(playing: Sequence[Turns], number: int) -> list[Turns]:
    """Let another one begin in every round, so that nobody always follows the same one."""
    if not playing:
        return []
    first = number * 3 % len(playing)
    return [*playing[first:], *playing[:first]]


class Turns:
    """One contender's rounds."""

    def __init__(self, contender: Contender, on: Ground, asked: Asked, say: Say) -> None:
        self._contender = contender
        self._ground = on
        self._asked = asked
        self._say = say
        self._pickups: list[int] = []
        self.entry = _introduced(contender, on)

    def play(self, number: int) -> None:
        """Play the three scenarios once. A peer that fails is told of, and is out; streamq or the floor end the run."""
        if self.entry.failed is not None:
            return
        try:
            self._play(number)
        except (ProgramFailed, RuntimeError) as error:
            if self._contender.name in (OURS, FLOOR):
                raise
            self.entry.failed = str(error)
            self._say(f"{self._contender.name} is out: {error}")

    def _play(self, number: int) -> None:
        asked = self._asked
        pickups, latency = play.latency(self._contender, self._ground, asked.seconds, asked.rate)
        self._pickups += pickups
        self.entry.latency.append(latency)
        self.entry.throughput.append(play.throughput(self._contender, self._ground, asked.seconds, asked.tasks))
        self.entry.drain.append(play.drain(self._contender, self._ground, asked.seconds, asked.tasks))
        put, drained = self.entry.throughput[-1], self.entry.drain[-1]
        p50, p99 = latency.quantiles_ms["p50"], latency.quantiles_ms["p99"]
        self._say(
            f"round {number + 1}  {self._contender.name:32} pickup p50 {p50:7.2f} p99 {p99:7.2f} ms"
            f"   throughput {put.per_s:8,.0f}/s   drain {drained.per_s:8,.0f}/s"
        )

    def pool(self) -> None:
        """Take the latencies of all rounds together."""
        if self._pickups:
            self.entry.pooled_ms = quantiles_ms(self._pickups)


def _introduced(contender: Contender, on: Ground) -> Entry:
    with Program(contender, role="about") as program:
        said = program.result()
    return Entry(
        name=contender.name,
        kind=contender.kind,
        server=f"{on.version}: {on.durability}",
        versions=said["versions"],
        settings=said["settings"],
        durability=said["durability"],
        wake=said["wake"],
    )
