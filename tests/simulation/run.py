"""One run: a plan is played to its end, and what was seen is judged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from streamq.core.wakes import Interest
from streamq.errors import FeedEnded, StoreUnavailable
from tests.chaos import event
from tests.chaos.event import AnyEvent
from tests.simulation import dice, loop
from tests.simulation.plan import Call, Fault, Freeze, Host, Kill, Outage, Plan, Silence, Stall, StreamEnd
from tests.simulation.process import Process
from tests.simulation.script import Script
from tests.simulation.server import Server
from tests.simulation.stream import Stream
from tests.simulation.verdict import Verdict, judge
from tests.simulation.waits import Waits
from tests.simulation.world import Action, Hung, World

PRODUCER: Final = "producer"

DRAIN_S: Final = 60.0
"""After the last thing that was planned: what has not ended by then is stuck. Retries, leases and the pauses after
errors take a few seconds each."""

STOP_S: Final = 30.0
"""How long stopping may take: giving back is bounded by five seconds, of each."""


ABANDONED: Final[list[Run]] = []
"""Runs whose processes did not come to their ends: kept, since trio says a lot when a loop is thrown away."""


Done = Callable[[Process], None]


class Seen(msgspec.Struct, frozen=True):
    """What a run came to. `lasted_s` is virtual."""

    verdict: Verdict
    history: tuple[AnyEvent, ...]
    lasted_s: float


class Run:
    """One run."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._world = World(plan.schedule)
        self._server = Server(self._world, plan)
        self._processes: list[Process] = []
        self._scripts: dict[str, Script] = {}  # of those that are there, by host
        self._streams: dict[str, Stream] = {}
        self._waits = Waits(plan, self._server, self._scripts)
        self._world.passing = self._waits.pass_by
        self._planned = 0  # what is still to happen

    def play(self) -> Seen:
        """Play it."""
        with dice.loaded(self._plan.schedule), loop.shuffled(self._plan.schedule):
            hung = ""
            ABANDONED.append(self)
            try:
                drained = self._play()
            except Hung as error:
                drained, hung = False, str(error)
            if not self._world.actors:
                ABANDONED.remove(self)
        if not drained:
            idle = [name for name, script in self._scripts.items() if script.undone]
            self._server.wrong += [("stuck", name, "has not done what it was to do") for name in idle]
        verdict = judge(self._server, self._waits, self._died(hung))
        return Seen(verdict, tuple(self._server.log), self._world.now)

    def _play(self) -> bool:
        for host in self._plan.hosts:
            self._at(host.starts_at, partial(self._start_host, host))
            if host.stops_at is not None:
                self._at(host.stops_at, partial(self._stop_host, host))
        self._start(PRODUCER, None, 0)
        for fault in self._plan.faults:
            self._plan_fault(fault)
        drained = self._world.run(self._is_drained, self._last_at() + DRAIN_S)
        for process in self._processes:
            process.stop()
        stopped = self._world.run(lambda: not self._world.actors, self._world.now + STOP_S)
        if not stopped:
            self._server.wrong.append(("stuck", ",".join(self._left()), "does not stop"))
        return drained

    def _left(self) -> list[str]:
        return [process.name for process in self._processes if not process.over]

    def _last_at(self) -> float:
        ends = [put.at + put.delay_s for put in self._plan.puts] + [host.starts_at for host in self._plan.hosts]
        ends += [recur.until for recur in self._plan.recurs]
        for one in (*self._plan.faults, *self._plan.acts):
            ends.append(getattr(one, "at", 0.0) + getattr(one, "for_s", 0.0) + getattr(one, "again_s", 0.0))
        work = sum((put.run_s + put.stubborn_s) * put.max_attempts for put in self._plan.puts)
        return max(ends, default=0.0) + work

    def _is_drained(self) -> bool:
        going_on = self._planned or self._server.under_way or any(one.undone for one in self._scripts.values())
        has_begun = self._scripts[PRODUCER].has_begun  # it takes some moments, in which nothing else may be planned
        return has_begun and not going_on and self._server.all_ended

    def _at(self, at: float, action: Action) -> None:
        self._planned += 1

        def act() -> None:
            self._planned -= 1
            action()

        self._world.after(at, act)

    # --- processes -----------------------------------------------------------------------------------------------

    def _start_host(self, host: Host, number: int = 0) -> None:
        self._start(host.name, host, number)

    def _start(self, name: str, host: Host | None, number: int) -> None:
        calls = (
            tuple(one for one in self._plan.faults if isinstance(one, Call) and one.host == name) if not number else ()
        )
        shape = {} if host is None else {"offset_s": host.offset_s, "skew_s": host.skew_s, "lag_s": host.lag_s}
        full = name if not number else f"{name}+{number}"
        process = Process(self._server, full, f"{self._plan.schedule} {full}", calls=calls, **shape)
        process.struck = self._waits.strike
        process.wire.struck = lambda method, hold_s: self._call_struck(process, method, hold_s)

        def feed(interest: Interest) -> Stream:
            assert host is not None
            stream = self._streams[name] = Stream(self._server, process, host, interest)
            self._server.feeds.append(stream)
            return stream

        process.wire.feed_of = feed
        script = Script(self._plan, self._server, process, host)
        self._scripts[name] = script
        self._processes.append(process)
        process.begin(script.produce if host is None else script.work)

    def _process(self, name: str) -> Process | None:
        """Return the last process of that name."""
        return next((one for one in reversed(self._processes) if one.name.split("+")[0] == name), None)

    def _stop_host(self, host: Host) -> None:
        process, script = self._process(host.name), self._scripts.get(host.name)
        if process is None or script is None:
            return
        if host.stops_in_order and script.stop is not None and script.serves:
            process.tell(script.stop.set)
        else:
            process.stop()

    # --- faults --------------------------------------------------------------------------------------------------

    def _plan_fault(self, fault: Fault) -> None:
        match fault:
            case Freeze():
                self._lasting(fault.host, fault.at, fault.for_s, "frozen", Process.freeze, Process.thaw)
            case Stall():
                until = fault.at + fault.for_s
                self._lasting(
                    fault.host,
                    fault.at,
                    fault.for_s,
                    "stalled",
                    lambda process: _stall(process, until),
                    lambda process: None,
                )
            case Outage(host="all"):
                for host in self._plan.hosts:
                    self._plan_fault(msgspec.structs.replace(fault, host=host.name))
                self._lasting(PRODUCER, fault.at, fault.for_s, "away", _away, _back)
            case Outage():
                self._lasting(fault.host, fault.at, fault.for_s, "away", _away, _back)
                self._at(fault.at, lambda: self._end_stream(fault.host, dead=False))
            case Kill():
                self._at(fault.at, lambda: self._kill(fault))
            case StreamEnd(host="all"):
                for host in self._plan.hosts:
                    self._plan_fault(msgspec.structs.replace(fault, host=host.name))
            case StreamEnd():
                self._at(fault.at, lambda: self._end_stream(fault.host, dead=fault.dead))
            case Silence():
                self._at(fault.at, lambda: self._silence(fault))
            case Call():
                pass

    def _lasting(self, name: str, at: float, for_s: float, what: str, begin: Done, end: Done) -> None:
        def strike() -> None:
            process = self._process(name)
            if process is None or not process.is_alive:
                return
            number = len(self._server.log)
            fault = f"{what} {number} {process.name}"
            self._struck(fault)
            begin(process)

            def heal() -> None:
                end(process)
                self._waits.strike()
                self._server.log.append(event.Healed(at=self._world.now, fault=fault))

            self._at(for_s, heal)

        self._at(at, strike)

    def _struck(self, fault: str) -> None:
        self._waits.strike()
        self._server.log.append(event.Struck(at=self._world.now, fault=fault, saying=""))

    def _call_struck(self, process: Process, method: str, hold_s: float) -> None:
        self._waits.strike()
        if hold_s:  # its answer may come too late for a lease
            fault = f"call {len(self._server.log)} {process.name}"
            self._struck(fault)
            self._at(hold_s, lambda: self._heal(fault))

    def _kill(self, fault: Kill) -> None:
        process = self._process(fault.host)
        host = next((one for one in self._plan.hosts if one.name == fault.host), None)
        if process is None or host is None or process.over or not process.is_alive:
            return
        number = sum(one.name.split("+")[0] == fault.host for one in self._processes)
        name = f"killed {number} {process.name}"
        self._struck(name)
        process.kill()
        self._scripts.pop(fault.host, None)
        # It counts for as long as its leases do.
        self._at(self._plan.lease_s + 0.1, lambda: self._heal(name))
        if host.stops_at is None or host.stops_at > self._world.now + fault.again_s:
            self._at(fault.again_s, lambda: self._start_host(host, number))

    def _heal(self, fault: str) -> None:
        self._waits.strike()
        self._server.log.append(event.Healed(at=self._world.now, fault=fault))

    def _end_stream(self, name: str, *, dead: bool) -> None:
        stream = self._streams.get(name)
        if stream is not None:
            self._waits.strike()
            stream.end(FeedEnded("the stream is dead") if dead else StoreUnavailable("the connection is lost"))

    def _silence(self, fault: Silence) -> None:
        stream = self._streams.get(fault.host)
        if stream is not None:
            stream.silent_until = self._world.now + fault.for_s
            self._waits.strike()
            self._at(fault.for_s, self._waits.strike)

    def _died(self, hung: str) -> list[tuple[str, str]]:
        died = [(one.name, repr(one.loop.error)) for one in self._processes if one.over and one.loop.error is not None]
        return [*died, ("world", hung)] if hung else died


def _stall(process: Process, until: float) -> None:
    process.stalled_until = max(process.stalled_until, until)


def _away(process: Process) -> None:
    process.wire.away = True


def _back(process: Process) -> None:
    process.wire.away = False


def play(plan: Plan) -> Seen:
    """Play a plan."""
    return Run(plan).play()
