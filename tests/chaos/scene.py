"""The scene of a run: a set, a database, the programs at work, and the hands a nemesis has."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

from streamq import embedded
from streamq.core.document import TERMINAL
from streamq.embedded import EmbeddedServer, Node
from streamq.store.mongo import MongoStore
from tests.chaos import history
from tests.chaos.actor import Actor, Role
from tests.chaos.apart import start_apart
from tests.chaos.auditor import MARK
from tests.chaos.clocked import clocked, put_right
from tests.chaos.event import AnyEvent, Died, Event, Marked
from tests.chaos.history import SUFFIX, Pen, read
from tests.chaos.network import NODES, Network
from tests.chaos.network import network as make_network
from tests.chaos.network import reason as network_reason
from tests.chaos.orders import Load, Orders
from tests.chaos.stored import Stored, look
from tests.patience import eventually

CAST: Final[tuple[Role, ...]] = ("probe", "worker", "worker", "hand", "producer", "producer")
"""Who takes part besides the auditor: enough workers that one can go."""

ELECTION_MS: Final = 2_000
OPLOG_MB: Final = 512
"""What the auditor may be behind; the embedded server's 64 are little for an hour."""

POLL_S: Final = 0.05
PRIMARY_S: Final = 90.0
STILL_S: Final = 45.0
"""Without any progress for so long a drain is over: longer than a lease, an election and a slow client together."""

CHECKPOINT_S: Final = 5
"""Instead of 60: a node that was killed or rolls back applies its oplog from the last one on, 20 to 90 s on a
busy machine."""

AUDIT_S: Final = 90.0

SOON: Final[dict[str, Any]] = {"serverSelectionTimeoutMS": 5_000, "connectTimeoutMS": 2_000, "socketTimeoutMS": 10_000}


PARAMETERS: Final[Mapping[str, str | int | bool]] = {"enableTestCommands": 1, "ttlMonitorEnabled": False}
EXTRA_ARGS: Final = ("--oplogSize", str(OPLOG_MB), "--syncdelay", str(CHECKPOINT_S))


Hello = Mapping[str, Any] | None


class Place(NamedTuple):
    """Where a run is."""

    server: EmbeddedServer
    network: Network | None


@contextmanager
def three_nodes() -> Iterator[Place]:
    """Start the set of a run: three nodes, elections within 2 s, fail points allowed. In a network of their own where
    there can be one, else on loopback."""
    with ExitStack() as stack:
        network = None if network_reason() else stack.enter_context(make_network())
        with clocked():
            server = stack.enter_context(_three_nodes(network))
        yield Place(server, network)


def _three_nodes(network: Network | None) -> EmbeddedServer:
    if network is not None:
        return start_apart(network, election_timeout_ms=ELECTION_MS, parameters=PARAMETERS, extra_args=EXTRA_ARGS)
    return embedded.start(nodes=NODES, election_timeout_ms=ELECTION_MS, parameters=PARAMETERS, extra_args=EXTRA_ARGS)


class Scene:
    """Of one run. Leaving it ends the programs, and removes the history unless it is to be kept; the set is its
    caller's."""

    def __init__(
        self,
        server: EmbeddedServer,
        directory: Path,
        seed: int,
        *,
        load: Load = Load(),  # noqa: B008 - frozen
        mutants: tuple[str, ...] = (),
        client_options: str = "",
        network: Network | None = None,
    ) -> None:
        self.server = server
        self.network = network
        self.directory = directory
        self.load = load
        self.database = f"chaos_{Random(seed).getrandbits(40):010x}_{time.monotonic_ns() % 10**9}"
        self._uri = server.uri + client_options
        self._dice = Random(seed)
        self._mutants = mutants
        self._hired = 0
        self._paused = False
        self._kept = False
        self.actors: list[Actor] = []
        directory.mkdir(parents=True, exist_ok=True)
        self._pen = Pen(directory / f"run{SUFFIX}")

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.keep()
        self.close()

    def open(self) -> None:
        """Make the database as the programs expect it."""
        store = MongoStore.connect(self._uri, self.database)
        try:
            store.prepare()
        finally:
            store.close()

    def close(self) -> None:
        """End the programs; remove the history unless it is to be kept."""
        for actor in self.actors:
            actor.kill()
        self._pen.close()
        if not self._kept:
            shutil.rmtree(self.directory, ignore_errors=True)
            with contextlib.suppress(PyMongoError), MongoClient[dict[str, Any]](self.server.uri, **SOON) as client:
                client.drop_database(self.database)

    def keep(self) -> None:
        """Put beside the history what else tells of the run, and leave it there at the end."""
        self._kept = True
        for node in self.server.nodes:
            with contextlib.suppress(OSError):
                shutil.copy(node.log, self.directory / f"node{node.number}.log")

    def note(self, event: Event) -> None:
        """Write down what the run itself does."""
        self._pen.write(event)

    # --- programs ------------------------------------------------------------------------------------------------

    def hire(self, role: Role, *, wait: bool = True) -> Actor:
        """Start one more program. `wait` until it is ready: not in the middle of a fault."""
        self._hired += 1
        name = f"{role}-{self._hired}"
        orders = Orders(
            self._uri if role != "auditor" else self.server.uri,
            self.database,
            str(self.directory / (name + SUFFIX)),
            self._dice.getrandbits(32),
            self.load,
            self._mutants,
        )
        # The auditor sees all: it is where the run is.
        into = self.network.into_clients if self.network is not None and role != "auditor" else []
        actor = Actor(role, name, orders, into)
        self.actors.append(actor)
        if wait:
            actor.wait_ready()
        return actor

    def hire_all(self, roles: Sequence[Role] = CAST) -> None:
        """Start the auditor, before there is anything to see, then all others at once; wait until they are ready."""
        self.hire("auditor")
        for actor in [self.hire(role, wait=False) for role in roles]:
            actor.wait_ready()

    def lately(self, role: Role) -> list[AnyEvent]:
        """Return the latest that the programs of a role have noted, those included that run no more."""
        return [event for actor in self.actors if actor.role == role for event in history.tail(actor.log)]

    def pause(self) -> None:
        """Let the producers put no more for now; return when nothing of them is on its way. One that was hired in the
        middle of a fault must have come up by then."""
        producers = self.of("producer")
        for actor in producers:
            actor.wait_ready()
            actor.pause()
        for actor in producers:
            actor.wait_paused()
        self._paused = True

    def go_on(self) -> None:
        """Let them put again."""
        if self._paused:
            self._paused = False
            for actor in self.of("producer"):
                actor.go_on()

    def of(self, *roles: Role) -> list[Actor]:
        """Return those of these roles that run."""
        return [actor for actor in self.actors if actor.role in roles and actor.runs]

    def deaths(self) -> list[Died]:
        """Name those that ended though nobody had killed them."""
        return [died for actor in self.actors if (died := actor.death()) is not None]

    def stop(self) -> list[Died]:
        """Ask all programs that end by themselves to, wait until they have, and name those that did not do so in good
        order."""
        actors = self.of("producer", "worker", "hand")
        for actor in actors:
            actor.wait_ready()
            actor.ask_to_stop()
        for actor in actors:
            actor.wait_ended()
        return self.deaths()

    # --- the set -------------------------------------------------------------------------------------------------

    def primary(self) -> Node:
        """Return the primary, waiting for one if need be."""
        found: list[Node] = []

        def is_there() -> bool:
            node = self.server.primary()
            found.extend([] if node is None else [node])
            return bool(found)

        self._wait(is_there, PRIMARY_S, "no primary came up")
        return found[0]

    def secondaries(self) -> list[Node]:
        """Return the others that run."""
        primary = self.primary()
        return [node for node in self.server.nodes if node is not primary and node.pid is not None]

    def command(self, node: Node, command: dict[str, Any]) -> None:
        """Send an admin command to one node. What it answers, if anything, does not matter: a primary that steps down
        may close the connection."""
        with (
            contextlib.suppress(PyMongoError),
            MongoClient[dict[str, Any]](node.host, node.port, directConnection=True, **SOON) as client,
        ):
            client.admin.command(command)

    def elect(self, node: Node) -> None:
        """Let that node become primary. An election that is called is not always won: it is called again."""

        def is_elected() -> bool:
            if self.primary() is node:
                return True
            self.command(node, {"replSetStepUp": 1})
            return False

        self._wait(is_elected, PRIMARY_S, f"{node} was not elected")

    def mend(self) -> None:
        """Bring all nodes back, whatever a nemesis has left."""
        if self.network is not None:
            self.network.open_all()
        for node in self.server.nodes:
            node.resume()
            node.start()
            put_right(node)
        self.server.wait_healthy()

    def wait_following(self, node: Node) -> None:
        """Wait until a node that came back is a member in good order."""

        def follows() -> bool:
            others = [one for one in self.server.nodes if one is not node and one.pid is not None]
            return is_in_order(_hello(node), [_hello(one) for one in others])

        self._wait(follows, PRIMARY_S, f"{node} did not come back")

    def _wait(self, condition: Callable[[], bool], within_s: float, otherwise: str) -> None:
        if not eventually(condition, within_s):
            raise TimeoutError(otherwise)

    # --- the end -------------------------------------------------------------------------------------------------

    def drain(self, still_s: float) -> bool:
        """Wait until every task has ended; False when nothing has moved for `still_s`. Nobody helps: what only a
        maintenance call would move is lost."""
        moved_at, before = time.monotonic(), -1
        with MongoClient[dict[str, Any]](self.server.uri, **SOON) as client:
            tasks = client[self.database]["tasks"]
            while True:
                try:
                    left = tasks.count_documents({"kind": {"$exists": False}, "status": {"$nin": list(TERMINAL)}})
                except PyMongoError:
                    left = before
                if left == 0:
                    return True
                if left != before:
                    moved_at, before = time.monotonic(), left
                if time.monotonic() - moved_at > still_s:
                    return False
                time.sleep(POLL_S)

    def books(self) -> tuple[list[AnyEvent], dict[str, Stored]]:
        """Return the history and what is stored, once the auditor has seen all until now. Nothing may be on its way."""
        for died in self.deaths():
            self.note(died)
        durable = WriteConcern("majority", wtimeout=20_000)
        mark = f"{MARK}{time.monotonic_ns()}"
        with MongoClient[dict[str, Any]](self.server.uri, **SOON) as client:
            tasks = client[self.database].get_collection("tasks", write_concern=durable)
            tasks.insert_one({"_id": mark, "kind": "chaos"})
            (auditor,) = self.of("auditor")

            def is_seen() -> bool:
                return any(isinstance(one, Marked) and one.mark == mark for one in history.tail(auditor.log))

            self._wait(is_seen, AUDIT_S, "the auditor does not come to its end")
            return read(self.directory), look(client[self.database])


def is_in_order(node: Hello, others: Iterable[Hello]) -> bool:
    """Say by the nodes' own words, None for one that says nothing, whether `node` follows, or is the one primary. One
    that was frozen says that it is primary until it hears of the one after it, and takes writes that are lost."""
    if node is None or node.get("secondary"):
        return node is not None
    return bool(node.get("isWritablePrimary")) and not any(
        one is not None and one.get("isWritablePrimary") for one in others
    )


def _hello(node: Node) -> Hello:
    try:
        with MongoClient[dict[str, Any]](node.host, node.port, directConnection=True, **SOON) as client:
            return client.admin.command("hello")
    except PyMongoError:
        return None
