"""A network of a run's own, in which a road between two places can be closed, in one direction or both.

    this machine ─┐          ┌─ node 0
                  ├─ router ─┼─ node 1
    clients ──────┘          └─ node 2

Each place is a network namespace with one address, except the first, which is the one the run itself is in. All packets
go through the router, and are dropped there: without a word, as a firewall drops them.

The members of a set know each other by address and port, and so do clients: a proxy cannot sit between them, and on
loopback a member's packets look like a client's. Here they come from different addresses. It needs Linux, root, and
iproute2 and util-linux (`ip`, `nsenter`); `reason` says what is missing.

Nothing outlives the run: see `tests.chaos.spaces`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.patience import eventually

ROOT: Final = Path(__file__).parents[2]
NODES: Final = 3
ROUTER: Final = NODES + 1
"""Of the namespaces, which are numbered: the nodes, the clients, the router."""

CLIENTS: Final = NODES
ANSWER_S: Final = 30.0
INTERFACE: Final = "sq"
"""What the name of this machine's own begins with; its number and that of the network follow."""

PREFIX: Final = "198.18"
"""Of 198.18.0.0/15, which is set aside for measurements between two networks (RFC 2544) and routed nowhere."""

SOON_S: Final = 0.3
NOBODY: Final = 9
"""A port that nothing listens on."""


class NoNetwork(RuntimeError):
    """This machine, or this user, cannot have one."""


class Network:
    """One of a run. Made by `network`."""

    def __init__(self, holder: int, spaces: Sequence[int], number: int) -> None:
        self._spaces = [f"/proc/{holder}/fd/{one}" for one in spaces]
        self._number = number
        self._closed: set[tuple[str, str]] = set()

    @property
    def here(self) -> str:
        """This machine's address in it."""
        return self._address(NODES + 1)

    @property
    def clients(self) -> str:
        """The address that the programs of the run have."""
        return self._address(CLIENTS)

    def node(self, number: int) -> str:
        """The address of a node."""
        return self._address(number)

    def into_node(self, number: int) -> list[str]:
        """What a command line begins with that is to run at a node's place."""
        return self._into(number)

    @property
    def into_clients(self) -> list[str]:
        """What one begins with that is to run at the clients' place."""
        return self._into(CLIENTS)

    def close(self, source: str, target: str) -> None:
        """Drop all packets from one address to another from now on."""
        if (source, target) not in self._closed:
            self._rule("add", source, target)
            self._closed.add((source, target))

    def open_all(self) -> None:
        """Let all packets pass again."""
        for source, target in sorted(self._closed):
            self._rule("del", source, target)
        self._closed.clear()

    def _rule(self, do: str, source: str, target: str) -> None:
        self._ip(ROUTER, [f"rule {do} from {source}/32 to {target}/32 blackhole"])

    def build(self) -> None:
        """Lay the roads. Raises `NoNetwork`."""
        self._ip(ROUTER, ["link set lo up"])
        self._run([*self._into(ROUTER), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
        for place in range(NODES + 1):
            self._ip(ROUTER, [f"link add r{place} type veth peer name eth0 netns {self._spaces[place]}"])
            self._ip(
                place, ["link set lo up", *self._roads("eth0", place), f"route add default via {self._gate(place)}"]
            )
        here = NODES + 1
        name = f"{INTERFACE}{os.getpid()}x{self._number}"  # 15 characters are allowed
        self._ip(ROUTER, [f"link add r{here} type veth peer name {name} netns {os.getpid()}"])
        self._ip(None, [*self._roads(name, here), f"route add {self._whole} via {self._gate(here)}"])
        for place in range(NODES + 2):
            self._ip(ROUTER, [f"addr add {self._gate(place)}/30 dev r{place}", f"link set r{place} up"])

    def wait_open(self) -> None:
        """Wait until every place is reached: the kernel lets the first packets go some moments after a link is up, up
        to a second later when others were made just now. Raises `NoNetwork`."""
        for place in range(NODES + 1):
            if not eventually(functools.partial(_is_open, self._address(place)), ANSWER_S):
                raise NoNetwork(f"{self._address(place)} is not reached")

    def _roads(self, device: str, place: int) -> list[str]:
        return [f"addr add {self._address(place)}/30 dev {device}", f"link set {device} up"]

    @property
    def _whole(self) -> str:
        return f"{PREFIX}.{self._number}.0/24"

    def _gate(self, place: int) -> str:
        return f"{PREFIX}.{self._number}.{4 * place + 1}"

    def _address(self, place: int) -> str:
        return f"{PREFIX}.{self._number}.{4 * place + 2}"

    def _into(self, space: int) -> list[str]:
        return ["nsenter", f"--net={self._spaces[space]}", "--"]

    def _ip(self, space: int | None, commands: Sequence[str]) -> None:
        into = [] if space is None else self._into(space)
        self._run([*into, "ip", "-batch", "-"], "\n".join(commands))

    def _run(self, argv: Sequence[str], given: str = "") -> None:
        try:
            subprocess.run(argv, input=given, text=True, capture_output=True, check=True, timeout=ANSWER_S)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or ""
            raise NoNetwork(f"{' '.join(argv)}: {given}: {said or error}") from error


def is_reached(address: str) -> bool:
    """Say whether packets go there and back: nobody listens, which is an answer."""
    try:
        socket.create_connection((address, NOBODY), timeout=SOON_S).close()
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        return False
    return True


def _is_open(address: str) -> bool:
    """`is_reached`, of a road that may be still to be found."""
    with contextlib.suppress(OSError):
        return is_reached(address)
    return False


@contextmanager
def network() -> Iterator[Network]:
    """Build one; it is gone afterwards, once nothing runs in it any more. Raises `NoNetwork`."""
    if sys.platform != "linux" or not all(map(shutil.which, ("ip", "nsenter"))):
        raise NoNetwork("it needs Linux, with ip (iproute2) and nsenter (util-linux)")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.spaces", str(NODES + 2)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as holder:
        try:
            assert holder.stdout is not None
            said = json.loads(holder.stdout.readline() or '{"error": "no answer"}')
            if "error" in said:
                raise NoNetwork(f"no network namespaces: {said['error']}")
            with _number() as number:
                made = Network(holder.pid, said["spaces"], number)
                made.build()
                made.wait_open()
                yield made
        finally:
            holder.kill()


@contextmanager
def _number() -> Iterator[int]:
    """Take addresses that nobody has. Other runs look for theirs at the same time, and two with the same ones cut each
    other's roads: who has bound a name that the kernel gives once, and takes back with the process, has them."""
    numbers = list(range(256))
    random.SystemRandom().shuffle(numbers)  # a run's seed may be another's
    with socket.socket(socket.AF_UNIX) as sign:
        number = next((one for one in numbers if not _is_road(one) and _is_signed(sign, one)), None)
        if number is None:
            raise NoNetwork("no free addresses")
        yield number


def _is_signed(sign: socket.socket, number: int) -> bool:
    """Take a number; False: another run has it."""
    try:
        sign.bind(f"\0streamq-{PREFIX}.{number}")
    except OSError:
        return False
    return True


def _is_road(number: int) -> bool:
    """Say whether a road leads there: one of another's making, or one that the kernel has yet to take down."""
    shown = subprocess.run(["ip", "route"], capture_output=True, text=True, check=False, timeout=ANSWER_S)
    return f"{PREFIX}.{number}." in shown.stdout


@functools.cache
def reason() -> str | None:
    """Say why there can be none here; None: there can."""
    with contextlib.suppress(FileNotFoundError):
        try:
            with network():
                return None
        except NoNetwork as error:
            return str(error)
    return "no namespaces here"
