"""A TCP proxy between a client and one mongod, which can make the road ill. Threads, no trio: for blocking tests too.

    client ──▶ Proxy ──▶ mongod            with Proxy(node.port) as proxy:
           ◀──       ◀──                       store = MongoStore.connect(proxy.uri, …)

Two kinds of illness:

- of the road, for all that passes: `proxy.road = Road(delay_s=0.2, jitter_s=0.1, drip_bytes=512)`; `block()` lets
  nothing pass in one direction or both, with all connections open, as a firewall does that drops packets; `cut()`
  breaks all connections that there are.
- of one message: `proxy.trap("update", nth=2, then="lose reply", if_=is_many)` waits for the second `update_many` and
  lets its reply be lost after the server has executed it.

A client reaches it by a direct connection (`proxy.uri`), or as the member of a set whose configuration names the
proxy's port (`advertise`): then nothing of the driver's monitoring goes around it. Only what is not encrypted and not
compressed can be understood.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Literal, Self

import msgspec
from pymongo import MongoClient

from tests.wire import HEADER_BYTES, Message, length_of

HOST: Final = "127.0.0.1"
CONNECT_S: Final = 10.0
END_S: Final = 10.0
READ_BYTES: Final = 1 << 16

Direction = Literal["to server", "to client"]
BOTH: Final[tuple[Direction, ...]] = ("to server", "to client")

Then = Literal["cut before", "lose reply", "swallow reply", "hold before", "hold reply"]
"""What becomes of the message that a trap has waited for.

- `cut before`: the server never sees it; the connection breaks.
- `lose reply`: the server executes it; the connection breaks when its reply comes.
- `swallow reply`: the server executes it; the reply never comes, and the connection stays open.
- `hold before`: it waits for `trap.release()` before the server sees it.
- `hold reply`: its reply waits for that.
"""


class Road(msgspec.Struct, frozen=True):
    """What happens to each message, in either direction."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Up to so much more, drawn for each."""
    drip_bytes: int = 0
    """So many at a time, `drip_pause_s` apart; 0: as they come."""
    drip_pause_s: float = 0.01
    loss: float = 0.0
    """The share of messages at which the connection breaks instead."""


WELL: Final = Road()


class Trap:
    """Waits for the `nth` message that is a `command` (any, if None) and for which `if_` holds. It springs once."""

    def __init__(
        self, command: str | None, nth: int, then: Then, if_: Callable[[Message], bool] = lambda message: True
    ) -> None:
        self.command = command
        self.nth = nth
        self.then = then
        self.seen = 0
        """How many it has seen that it could have been."""
        self.sprung = threading.Event()
        """Set once it has done what it is for; of a hold, once something is held."""
        self._if = if_
        self._released = threading.Event()

    def takes(self, message: Message) -> bool:
        """Count a message; say whether it is the one."""
        if self.command not in (None, message.command) or not self._if(message):
            return False
        self.seen += 1
        return self.seen == self.nth

    def release(self) -> None:
        """Let go on what it holds."""
        self._released.set()

    def hold(self) -> None:
        """Wait for `release`."""
        self.sprung.set()
        self._released.wait()


class Broken(Exception):
    """A connection is to end here."""


class Proxy:
    """Listens on a free port of loopback from the beginning to `close`."""

    def __init__(
        self, port: int, host: str = HOST, *, seed: int = 0, login: Callable[[str], str] = lambda uri: uri
    ) -> None:
        """`host` and `port` are the server's; `login` puts in what it lets a client in by."""
        self._login = login
        self.road = WELL
        self.accepted = 0
        """How many connections there were."""
        self._server = (host, port)
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._traps: list[Trap] = []
        self._open = {direction: threading.Event() for direction in BOTH}
        self.unblock()
        self._refusing = False
        self._closed = False
        self._connections: set[_Connection] = set()
        self._listener = socket.create_server((HOST, 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def uri(self) -> str:
        """A connection string by which a client talks through this to that one server, whatever its set is."""
        return self._login(f"mongodb://{HOST}:{self.port}/?directConnection=true")

    @property
    def open_connections(self) -> int:
        """How many there are."""
        with self._lock:
            return len(self._connections)

    def trap(
        self,
        command: str | None,
        nth: int = 1,
        then: Then = "lose reply",
        if_: Callable[[Message], bool] = lambda message: True,
    ) -> Trap:
        """Set a trap; of several the first set is asked first, and a message goes into one at most."""
        made = Trap(command, nth, then, if_)
        with self._lock:
            self._traps.append(made)
        return made

    def block(self, *directions: Direction) -> None:
        """Let nothing more pass in these directions (both, if none is named); what was sent is kept for `unblock`."""
        for direction in directions or BOTH:
            self._open[direction].clear()

    def unblock(self) -> None:
        """Let all pass again, first what was kept."""
        for opened in self._open.values():
            opened.set()

    def cut(self) -> None:
        """Break all connections that there are."""
        with self._lock:
            connections = list(self._connections)
        for one in connections:
            one.end()

    def refuse(self, refusing: bool = True) -> None:
        """End each new connection as soon as it comes, or no more."""
        self._refusing = refusing

    def close(self) -> None:
        """End all connections and threads."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(END_S)
        self._listener.close()
        self.unblock()
        with self._lock:
            traps, connections = list(self._traps), list(self._connections)
        for one in connections:
            one.end()
        for trap in traps:  # what they hold is not to be heard of any more
            trap.release()
        for one in connections:
            one.join()

    # --- of its connections --------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self._refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(self._server, timeout=CONNECT_S)
            except OSError:
                client.close()
                continue
            connection = _Connection(self, client, server)
            with self._lock:
                self._connections.add(connection)
            connection.start()

    def _forget(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.discard(connection)

    def _trap_for(self, message: Message) -> Trap | None:
        with self._lock:
            return next((trap for trap in self._traps if trap.takes(message)), None)

    def _suffer(self, direction: Direction, ended: threading.Event) -> None:
        """Wait as the road wants a message to."""
        road = self.road
        with self._lock:
            chance, more = self._dice.random(), self._dice.random()
        if chance < road.loss:
            raise Broken
        if road.delay_s or road.jitter_s:
            ended.wait(road.delay_s + more * road.jitter_s)
        while not self._open[direction].wait(0.1):
            if ended.is_set():
                raise Broken


class _Connection:
    """Two threads, one a direction; whatever ends one of them ends both."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._ended = threading.Event()
        self._waiting: dict[int, Trap] = {}
        for one in (client, server):
            one.settimeout(None)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._left = len(BOTH)
        self._left_lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._carry, args=("to server", client, server, self._request), daemon=True),
            threading.Thread(target=self._carry, args=("to client", server, client, self._reply), daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Break it."""
        self._ended.set()
        for one in (self._client, self._server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(END_S)

    def _carry(
        self,
        direction: Direction,
        source: socket.socket,
        target: socket.socket,
        judge: Callable[[Message], bool],
    ) -> None:
        try:
            while (message := _read(source)) is not None:
                passes = judge(message)
                self._proxy._suffer(direction, self._ended)
                if passes:
                    self._send(target, message.data)
        except (Broken, OSError, ValueError):
            pass
        finally:
            self.end()
            self._leave()

    def _leave(self) -> None:
        with self._left_lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._client.close()
            self._server.close()
            self._proxy._forget(self)

    def _send(self, target: socket.socket, data: bytes) -> None:
        road = self._proxy.road
        step = road.drip_bytes or len(data)
        for at in range(0, len(data), step):
            if at and self._ended.wait(road.drip_pause_s):
                raise Broken
            target.sendall(data[at : at + step])

    def _request(self, message: Message) -> bool:
        trap = self._proxy._trap_for(message)
        if trap is None:
            return True
        if trap.then == "cut before":
            trap.sprung.set()
            raise Broken
        if trap.then == "hold before":
            trap.hold()
        else:
            self._waiting[message.id] = trap
        return True

    def _reply(self, message: Message) -> bool:
        trap = self._waiting.pop(message.reply_to, None)
        if trap is None:
            return True
        if trap.then == "hold reply":
            trap.hold()
            return True
        trap.sprung.set()
        if trap.then == "lose reply":
            raise Broken
        return False


def _read(source: socket.socket) -> Message | None:
    """Read one message, None at the end."""
    header = _read_bytes(source, HEADER_BYTES)
    if header is None:
        return None
    rest = _read_bytes(source, length_of(header) - HEADER_BYTES)
    return None if rest is None else Message(header + rest)


def _read_bytes(source: socket.socket, count: int) -> bytes | None:
    parts: list[bytes] = []
    while count:
        part = source.recv(min(count, READ_BYTES))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def advertise(proxy: Proxy, server_port: int) -> str:
    """Let a one-node set know itself by the proxy's address; return the connection string of that set."""
    with MongoClient[dict[str, Any]](HOST, server_port, directConnection=True) as client:
        config = client.admin.command("replSetGetConfig")["config"]
        config["members"][0]["host"] = f"{HOST}:{proxy.port}"
        config["version"] += 1
        client.admin.command("replSetReconfig", config, force=True)
        deadline = time.monotonic() + END_S
        while not client.admin.command("hello").get("isWritablePrimary"):
            if time.monotonic() > deadline:
                raise TimeoutError("no primary under the proxy's address")
            time.sleep(0.005)
    return f"mongodb://{HOST}:{proxy.port}/?replicaSet={config['_id']}"
