"""Roads are closed in the direction that is asked for, and opened again; nothing is left, however a run ends."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest

from tests.chaos import network as networks
from tests.chaos.actor import ROOT
from tests.chaos.network import INTERFACE, SOON_S, Network, is_reached
from tests.patience import eventually

SAY: Final = (
    "import socket, sys; socket.socket(type=socket.SOCK_DGRAM).sendto(b'hello', (sys.argv[1], int(sys.argv[2])))"
)

PROGRAM: Final = """
import time
from tests.chaos.network import network

with network() as made:
    made.close(made.here, made.node(0))
    print("there", flush=True)
    time.sleep(600)
"""

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if (reason := networks.reason()) is not None:
        pytest.skip(reason)
    with networks.network() as made:
        yield made


def is_heard(network: Network, number: int) -> bool:
    """Say whether a packet comes here from a node."""
    with socket.socket(type=socket.SOCK_DGRAM) as ear:
        ear.bind((network.here, 0))
        ear.settimeout(SOON_S)
        port = str(ear.getsockname()[1])
        subprocess.run([*network.into_node(number), sys.executable, "-c", SAY, network.here, port], check=True)
        try:
            return ear.recv(16) == b"hello"
        except TimeoutError:
            return False


def test_road_that_is_closed_one_way_is_open_the_other_way(network: Network) -> None:
    assert is_reached(network.node(0))
    network.close(network.here, network.node(0))
    assert not is_reached(network.node(0))
    assert is_heard(network, 0)
    assert is_reached(network.node(1))
    network.open_all()
    assert is_reached(network.node(0))


def test_road_that_is_closed_the_other_way_lets_nothing_come(network: Network) -> None:
    network.close(network.node(0), network.here)
    assert not is_heard(network, 0)
    network.open_all()
    assert is_heard(network, 0)


def interfaces(pid: int) -> list[str]:
    return [name for name in os.listdir("/sys/class/net") if name.startswith(f"{INTERFACE}{pid}x")]


def test_run_that_is_killed_leaves_no_interface(network: Network) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, cwd=ROOT) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"there\n"
        assert interfaces(run.pid)
        run.kill()
    assert eventually(lambda: not interfaces(run.pid))


def test_two_networks_at_once_have_addresses_of_their_own(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when both look before either has made anything."""
    monkeypatch.setattr(networks, "_is_road", lambda number: False)
    monkeypatch.setattr(random.SystemRandom, "shuffle", lambda self, numbers: numbers.sort())
    with networks.network() as one, networks.network() as other:
        assert one.here != other.here
        assert all(map(is_reached, (network.node(0), one.node(0), other.node(0))))
