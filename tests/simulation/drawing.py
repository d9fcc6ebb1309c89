"""From a seed to a plan. Each seed takes some of the features and some of the faults (swarm testing): what would hide a
fault is then often missing."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, TypeVar

from msgspec.structs import replace

from streamq.core.recurrence import Missed
from tests.simulation.plan import (
    Act,
    Call,
    Cancel,
    Fault,
    Freeze,
    Host,
    Kill,
    Limit,
    Lost,
    Outage,
    Pause,
    Plan,
    Put,
    Recur,
    Silence,
    Stall,
    StreamEnd,
)

T = TypeVar("T")

HOUR_S: Final = 3600.0

FEATURES: Final = (
    *("delays", "fails", "groups", "unique", "after", "long", "acts", "own puts", "two queues", "deletes", "odd"),
)
OF_QUEUES: Final = ("limits", "bare", "recurring")
"""Drawn after all the rest, by dice of their own."""

FAULTS: Final = ("freeze", "stall", "kill", "outage", "stream", "silence", "calls", "wakes", "clocks", "stops")

METHODS: Final = (
    *("settle",) * 8,
    *("claim", "put", "extend") * 4,
    *("claim_due", "due", "release_due", "tick", "beat", "feed"),
    *("paused", "still_ready", "flush", "leave", "report", "cancel", "asked", "abandon", "queues_behind", "ring"),
)
HOWS: Final[tuple[Lost, ...]] = ("before", "after", "late", "slow", "half")
OF_HOLDERS: Final[tuple[Lost, ...]] = ("after", "late", "slow", "slow", "half")
"""What shows most of the calls that a fence stands before."""

OUTLASTED: Final = frozenset({"freeze", "stall", "outage", "kill"})
"""What shows most while handlers run."""

SPAN_S: Final = 4.0
"""In which tasks are put and faults strike."""

LASTING_S: Final = 10.0


def drawn(seed: int) -> Plan:
    """Draw the plan of a seed."""
    plan = _Drawing(seed).plan()
    dice = Random(f"{plan.schedule} queues")
    return _with_faults_of_controls(dice, _with_queues(dice, plan))


def _with_queues(dice: Random, plan: Plan) -> Plan:
    """Draw what is said of whole queues, and who claims from them without handlers."""
    has = {name for name in OF_QUEUES if dice.random() < 0.2}
    queues = plan.hosts[0].queues
    hosts, puts = plan.hosts, plan.puts
    if "bare" in has:
        alone = "recurring" not in has and dice.random() < 0.4
        bare = [dice.random() < 0.6 if number else alone for number in range(len(hosts))]
        hosts = tuple(replace(host, bare=one) for host, one in zip(hosts, bare, strict=True))
    if "limits" in has:
        keys = [dice.choice((None, "k", "l")) for _ in puts]
        puts = tuple(replace(put, rate_key=key) for put, key in zip(puts, keys, strict=True))
    return replace(
        plan,
        hosts=hosts,
        puts=puts,
        limits=tuple(_limit(dice, queue) for queue in queues) if "limits" in has else (),
        recurs=(_recur(dice, dice.choice(queues)),) if "recurring" in has else (),
    )


def _with_faults_of_controls(dice: Random, plan: Plan) -> Plan:
    """Let calls go wrong, now and then, by which schedules and queues are controlled."""
    if dice.random() < 0.7:
        return plan
    # Longer than until calm comes: what is late is seen then.
    lasting = tuple(replace(recur, until=recur.until + LASTING_S) for recur in plan.recurs)
    return replace(plan, recurs=lasting, faults=(*plan.faults, *_of_controls(dice, plan)))


def _of_controls(dice: Random, plan: Plan) -> list[Call]:
    """Draw calls that go wrong, of those by which schedules are declared, fired and switched, and queues paused."""
    names = [host.name for host in plan.hosts]
    made = [("producer", "pause")] if any(isinstance(act, Pause) for act in plan.acts) else []
    if plan.recurs:
        made += [(dice.choice(names), "fire") for _ in range(3)] + [(dice.choice(names), "declare")]
        made += [("producer", "switch")]
    count = dice.choice((1, 2, 4)) if made else 0
    return [_call(dice, *dice.choice(made), plan.lease_s) for _ in range(count)]


def _call(dice: Random, host: str, method: str, lease_s: float) -> Call:
    how = dice.choice(OF_HOLDERS if method in ("settle", "extend", "report") else HOWS)
    late_s = lease_s * (0.5 + _within(dice, 1.2)) if how == "slow" else _within(dice, 1.0)
    hold_s = dice.choice((0.0, 0.0, _within(dice, 0.3), _within(dice, 2.0)))
    return Call(host, method, dice.choice((1, 1, 2, 3, 5)), how, hold_s, round(late_s, 4))


def _within(dice: Random, span_s: float) -> float:
    return round(dice.random() * span_s, 4)


def _limit(dice: Random, queue: str) -> Limit:
    running, key_running, burst = dice.choice((1, 2, None)), dice.choice((1, None)), dice.choice((1, 3, None))
    if running is key_running is burst is None:
        running = 1
    return Limit(queue, running=running, key_running=key_running, burst=burst, token_s=dice.choice((0.05, 0.3)))


def _recur(dice: Random, queue: str) -> Recur:
    missed: Missed = dice.choice(("all", "all", "latest"))
    overlap = missed == "all" or dice.random() < 0.5
    return Recur(queue, dice.choice((1.0, 1.5)), round(1.0 + 4 * dice.random(), 3), missed, overlap)


class _Drawing:
    def __init__(self, seed: int) -> None:
        self._dice = Random(seed)
        self._seed = seed
        self._has = self._some(FEATURES, 0.35)
        self._ills = self._some(FAULTS, 0.25) | {self._dice.choice(FAULTS)}
        if self._ills & OUTLASTED and self._dice.random() < 0.7:
            self._has.add("long")
        self._lease_s = self._dice.choice((1.0, 2.0, 4.0))
        self._moments: list[tuple[float, float]] = []
        self._gap_s = 0.0
        self._queues = ("a", "b") if "two queues" in self._has else ("a",)

    def _some(self, names: Sequence[str], share: float) -> set[str]:
        return {name for name in names if self._dice.random() < share}

    def _by_chance(self, share: float, value: T, other: T) -> T:
        return value if self._dice.random() < share else other

    def _at(self, span_s: float = SPAN_S) -> float:
        return _within(self._dice, span_s)

    def _then(self) -> float:
        """Draw when something happens: half the time as something else does, which is when races are."""
        if self._dice.random() < 0.5:
            return self._at()
        at, within_s = self._dice.choice(self._moments)
        return round(max(0.0, at + self._dice.random() * within_s), 4)

    def _before(self) -> float:
        """Draw the same for what is followed by a gap in which a put is to come."""
        at, within_s = self._dice.choice(self._moments)
        return round(max(0.0, at + self._dice.random() * min(within_s, self._gap_s)), 4)

    def plan(self) -> Plan:
        dice = self._dice
        lag_s = dice.choice((0.0005, 0.005, 0.02, 0.05))
        drops = "wakes" in self._ills and dice.random() < 0.5
        hosts = tuple(self._host(number, lag_s, drops=drops) for number in range(dice.choice((1, 1, 2, 2, 3))))
        starts = [host.starts_at for host in hosts] + [host.stops_at for host in hosts if host.stops_at is not None]
        self._moments = [(at, 8 * lag_s) for at in starts]
        puts = tuple(self._put(key, hosts) for key in range(dice.choice((2, 5, 8, 12))))
        self._gap_s = 6 * lag_s
        self._moments = [(put.at + put.delay_s - 4 * lag_s, put.run_s + 12 * lag_s) for put in puts]
        faults = tuple(self._faults(hosts))
        return Plan(
            self._seed,
            hosts,
            puts,
            tuple(self._acts(puts)),
            faults,
            lease_s=self._lease_s,
            safety_scan_s=2.0 if drops else None,
        )

    def _host(self, number: int, lag_s: float, *, drops: bool) -> Host:
        dice, first = self._dice, number == 0
        wakes = "wakes" in self._ills
        stops = "stops" in self._ills and not first and dice.random() < 0.7
        skewed = "clocks" in self._ills
        return Host(
            f"w{number}",
            slots=dice.choice((1, 2, 3)),
            queues=self._queues if first or dice.random() < 0.6 else self._queues[:1],
            starts_at=0.0 if first else self._by_chance(0.5, 0.0, self._at()),
            stops_at=self._at() + 0.5 if stops else None,
            stops_in_order=stops and dice.random() < 0.5,
            offset_s=float(dice.randrange(100_000)),
            skew_s=dice.choice((-HOUR_S, HOUR_S)) if skewed and dice.random() < 0.7 else 0.0,
            lag_s=lag_s,
            swift=dice.random() < 0.5,
            reorders=wakes and dice.random() < 0.6,
            twice=0.3 if wakes and dice.random() < 0.6 else 0.0,
            drops=0.2 if drops else 0.0,
        )

    def _put(self, key: int, hosts: Sequence[Host]) -> Put:
        dice, has = self._dice, self._has
        own = "own puts" in has and dice.random() < 0.5
        long = "long" in has and dice.random() < 0.5
        fails = dice.choice((0, 0, 1, 1, 2, 3)) if "fails" in has else 0
        return Put(
            key,
            at=self._by_chance(0.2, 0.1, self._then()),
            by=hosts[0].name if own else "producer",
            queue=dice.choice(self._queues),
            run_s=round((0.3 + 1.5 * dice.random()) * self._lease_s, 3) if long else dice.choice((0.0, 0.0, 0.01, 0.1)),
            fails=fails,
            max_attempts=dice.choice((1, 2, 3, 3)) if "fails" in has else 3,
            delay_s=self._at(2.0) if "delays" in has and dice.random() < 0.6 else 0.0,
            priority=dice.choice((0, 0, 5)),
            group="g" if "groups" in has and dice.random() < 0.6 else None,
            unique="u" if "unique" in has and dice.random() < 0.4 else None,
            after=dice.randrange(key) if "after" in has and key and dice.random() < 0.5 else None,
            again=dice.random() < 0.8,
            deletes="deletes" in has and dice.random() < 0.5,
            stubborn_s=self._at(2.0) if "odd" in has and dice.random() < 0.3 else 0.0,
            timed="odd" in has and dice.random() < 0.3,
            reports="odd" in has and dice.random() < 0.3,
        )

    def _acts(self, puts: Sequence[Put]) -> list[Act]:
        if "acts" not in self._has:
            return []
        acts: list[Act] = []
        for put in puts:
            if self._dice.random() < 0.3:
                begins_at = put.at + put.delay_s
                acts.append(Cancel(put.key, self._by_chance(0.5, begins_at + put.run_s, begins_at) + self._at(0.02)))
        if self._dice.random() < 0.5:
            acts.append(Pause(self._dice.choice(self._queues), self._at(), self._at(1.0)))
        return acts

    def _faults(self, hosts: Sequence[Host]) -> list[Fault]:
        dice, ills = self._dice, self._ills
        names = [host.name for host in hosts]
        faults: list[Fault] = []
        for _ in range(dice.choice((1, 2, 3, 4))):
            name = dice.choice(names)
            if "freeze" in ills:
                past_s = self._lease_s * (1.0 + self._at(0.8))
                faults.append(Freeze(name, self._then(), round(self._by_chance(0.7, past_s, self._at(1.0)), 4)))
            if "stall" in ills:
                faults.append(Stall(name, self._then(), round(self._lease_s * (0.3 + self._at(1.2)), 4)))
            if "kill" in ills:
                faults.append(Kill(name, self._then(), 0.1 + self._at(1.0)))
            if "outage" in ills:
                faults.append(Outage(self._by_chance(0.5, "all", name), self._then(), self._at(self._lease_s * 1.5)))
            if "stream" in ills:
                faults.append(StreamEnd(self._by_chance(0.5, "all", name), self._before(), dice.random() < 0.5))
            if "silence" in ills:
                faults.append(Silence(name, self._then(), self._at(2.0)))
        if "calls" in ills:
            faults += [self._call([*names, "producer"]) for _ in range(dice.choice((2, 4, 6, 8)))]
        return faults

    def _call(self, names: Sequence[str]) -> Call:
        dice = self._dice
        method = dice.choice(METHODS)
        host = dice.choice(names) if method in ("put", "cancel") else dice.choice(names[:-1])
        return _call(dice, host, method, self._lease_s)
