"""One fault at one place of a road: the n-th command of its name is refused, or lost, or its reply is."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, Final

import msgspec
from pymongo.monitoring import CommandStartedEvent

from streamq.embedded import EmbeddedServer
from streamq.store.setup import CLIENT_DEFAULTS
from tests.databases import Mongo
from tests.faults.commands import QUIET, Answered
from tests.proxy import Proxy, Then

ON_THE_WIRE: Final[dict[str, Then]] = {"unsent": "cut before", "unanswered": "lose reply"}
"""The connection breaks before the server sees the command; after it has executed it."""

SAID: Final[dict[str, dict[str, Any]]] = {
    "closeConnection": {"closeConnection": True},
    "WriteConflict": {"errorCode": 112},
    "NotWritablePrimary": {"errorCode": 10107},
    "InterruptedAtShutdown": {"errorCode": 11600},
    "ExceededTimeLimit": {"errorCode": 262},
    "writeConcernError": {"writeConcernError": {"code": 91, "errmsg": "Replication is being shut down"}},
}
"""What the server says instead of executing the command; with the last it executes it and says that it may not last."""

WRITES: Final = frozenset({"insert", "update", "delete", "findAndModify", "commitTransaction"})

NEVER: Final = frozenset({("commitTransaction", "WriteConflict")})
"""What no server says: it has aborted the transaction then, which a fail point does not do."""

DEFAULTS: Final = CLIENT_DEFAULTS | {"heartbeatFrequencyMS": 500}
"""After an error that says that the server is going away the driver waits up to a heartbeat to see that it has not."""


class Fault(msgspec.Struct, frozen=True):
    """The `nth` command of that name meets it, and with `times=2` the next of that name too."""

    command: str
    nth: int
    how: str
    times: int = 1

    def __str__(self) -> str:
        return f"{self.how} at {self.command} {self.nth}" + (" and the next" if self.times > 1 else "")


def faults_at(counts: Counter[str], times: int) -> list[Fault]:
    """List all there can be on a road on which so many commands of each name are sent."""
    return [
        Fault(command, nth, how, times)
        for command, count in sorted(counts.items())
        for nth in range(1, count + 1)
        for how in (*ON_THE_WIRE, *SAID)
        if (how != "writeConcernError" or command in WRITES) and (command, how) not in NEVER
    ]


class Turn:
    """The server has one fail point for commands, and several roads are walked at a time: whoever is about to send the
    command that is to fail sets it and keeps the others waiting until the answer has come."""

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        self._lock = threading.Lock()

    def take(self, command: str, app: str, how: dict[str, Any]) -> None:
        self._lock.acquire()
        self._set({"times": 1}, {"failCommands": [command], "appName": app} | how)

    def give(self) -> None:
        try:
            self._set("off", {})
        finally:
            self._lock.release()

    def _set(self, mode: Any, data: dict[str, Any]) -> None:
        # In a context of its own: the time of the command that has waited for its turn may have run out, which would
        # bound this one as well, and the turn would never be given on.
        Context().run(self._mongo.admin.command, "configureFailPoint", "failCommand", mode=mode, data=data)


class Striking(Answered):
    """Strikes commands of one client: no other is struck until the answer to one that was has come."""

    def __init__(self, app: str, turn: Turn) -> None:
        self._app = app
        self._turn = turn
        self._armed: int | None = None

    def strike(self, event: CommandStartedEvent, how: dict[str, Any]) -> None:
        """Let the command that is about to be sent meet that."""
        self._turn.take(event.command_name, self._app, how)
        self._armed = event.request_id

    def answered(self, request_id: int) -> None:
        """See `Answered`."""
        if self._armed == request_id:
            self._armed = None
            self._turn.give()


class Striker(Striking):
    """Counts a client's commands; sets the fail point in the instant before the one that is to meet it is sent."""

    def __init__(self, app: str, fault: Fault | None, turn: Turn) -> None:
        super().__init__(app, turn)
        self.counts: Counter[str] = Counter()
        self.struck = 0
        self._fault = fault
        self._lock = threading.Lock()

    def started(self, event: CommandStartedEvent) -> None:
        """See `CommandListener`."""
        name = event.command_name
        if name in QUIET:
            return
        with self._lock:
            self.counts[name] += 1
            fault = self._fault
            if fault is None or name != fault.command or self.counts[name] < fault.nth or self.struck >= fault.times:
                return
            self.struck += 1
            self.strike(event, SAID[fault.how])


@contextmanager
def counting(server: EmbeddedServer) -> Iterator[tuple[Mongo, Counter[str]]]:
    """Make a client to which nothing happens; yield it, and how often it sends what."""
    with Mongo(server.uri, tz_aware=True) as mongo:
        striker = Striker("counted", None, Turn(mongo))
        with Mongo(server.uri, tz_aware=True, event_listeners=[striker], **DEFAULTS) as counted:
            yield counted, striker.counts


@contextmanager
def meeting(fault: Fault, server: EmbeddedServer, app: str, turn: Turn) -> Iterator[tuple[Mongo, Callable[[], int]]]:
    """Make the client to which `fault` happens; yield it, and what says how often it did."""
    defaults = DEFAULTS | {"appname": app}
    if fault.how in ON_THE_WIRE:
        with Proxy(server.nodes[0].port) as proxy:
            # Of several traps the first is asked first, so the second one sees what the first has left.
            traps = [proxy.trap(fault.command, fault.nth, ON_THE_WIRE[fault.how]) for _ in range(fault.times)]
            with Mongo(proxy.uri, tz_aware=True, **defaults) as mongo:
                yield mongo, lambda: sum(trap.sprung.is_set() for trap in traps)
    else:
        striker = Striker(app, fault, turn)
        with Mongo(server.uri, tz_aware=True, event_listeners=[striker], **defaults) as mongo:
            yield mongo, lambda: striker.struck
