"""The embedded server's life: it starts, keeps what it should keep, and never outlives its program."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from streamq import embedded
from streamq.embedded.ports import free_port, is_free
from streamq.embedded.replica_set import connected
from streamq.errors import EmbeddedError, OptionInvalid
from tests.patience import eventually, is_alive

# What the programs below have in common: start a server, say which processes it has, go on.
PROGRAM_HEAD = """
import json, os, signal, sys, threading, time
from streamq import embedded
server = embedded.start(*sys.argv[1:2])
def tell(**more):
    print(json.dumps({"minder": server.minder_pid, "mongod": server.nodes[0].pid, "path": str(server.path), **more}),
          flush=True)
"""
WAITS = "tell(); sys.stdin.read()"


@dataclass
class Program:
    """A running program with a server of its own."""

    process: subprocess.Popen[str]
    told: dict[str, Any]

    @property
    def pids(self) -> list[int]:
        return [self.told["minder"], self.told["mongod"]]

    @property
    def path(self) -> Path:
        return Path(self.told["path"])


@contextmanager
def running(code: str, *args: str) -> Iterator[Program]:
    argv = [sys.executable, "-c", PROGRAM_HEAD + code, *args]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Program(process, json.loads(process.stdout.readline()))
        finally:
            process.kill()


def assert_all_gone(program: Program, *, directory_too: bool = True) -> None:
    assert eventually(lambda: not any(is_alive(pid) for pid in program.pids)), program.told
    if directory_too:
        assert eventually(lambda: not program.path.exists()), program.told


def put_and_get(uri: str, value: int = 1) -> int:
    with MongoClient[dict[str, int]](uri) as client:
        client.shop.orders.insert_one({"value": value})
        found = client.shop.orders.find_one({"value": value})
    assert found is not None
    return found["value"]


def count_orders(uri: str) -> int:
    with MongoClient[dict[str, int]](uri) as client:
        return client.shop.orders.count_documents({})


# --- start and stop ------------------------------------------------------------------------------------------------


def test_a_started_server_takes_writes_and_stop_leaves_nothing_behind() -> None:
    threads_before = set(threading.enumerate())
    gc.collect()  # what earlier tests left to the collector must not go in between and make room for a leak
    fds_before = os.listdir("/proc/self/fd")
    server = embedded.start()
    pids = [server.minder_pid, server.nodes[0].pid]
    assert put_and_get(server.uri, 7) == 7

    stopping_at = time.monotonic()
    server.stop()

    assert time.monotonic() - stopping_at < 10  # 0.1 s; a minder that does not listen is killed after 30 s
    assert not any(is_alive(pid) for pid in pids if pid is not None)
    assert not server.path.exists()
    assert eventually(lambda: set(threading.enumerate()) <= threads_before)
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) <= len(fds_before))


def test_stop_a_second_time_does_nothing_and_a_stopped_node_says_so() -> None:
    with embedded.start() as server:
        server.stop()
        server.stop()
        with pytest.raises(EmbeddedError, match="is stopped"):
            server.nodes[0].start()


def test_server_listens_on_loopback_only_and_makes_no_socket_file(
    server: embedded.EmbeddedServer, admin_uri: str
) -> None:
    port = server.nodes[0].port
    with MongoClient[dict[str, Any]](admin_uri) as client:
        options = client.admin.command("getCmdLineOpts")["parsed"]["net"]
    assert options["bindIp"] == "127.0.0.1"
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    assert {line[1] for line in listening if line[1].endswith(f":{port:04X}") and line[3] == "0A"} == {
        f"0100007F:{port:04X}"
    }
    assert not Path(f"/tmp/mongodb-{port}.sock").exists()


def test_parameters_reach_mongod(admin_uri: str) -> None:
    with MongoClient[dict[str, Any]](admin_uri) as client:
        assert client.admin.command("getParameter", enableTestCommands=1)["enableTestCommands"] is True


def test_an_extra_argument_replaces_the_one_chosen_here() -> None:
    with embedded.start(extra_args=["--oplogSize", "16"]) as server, MongoClient[dict[str, Any]](server.uri) as client:
        assert client.admin.command("getCmdLineOpts")["parsed"]["replication"]["oplogSizeMB"] == 16


@pytest.mark.parametrize(
    ("option", "arguments"),
    [
        ("nodes", {"nodes": 0}),
        ("port", {"port": 70_000}),
        ("cache_gb", {"cache_gb": 0.1}),
        ("election_timeout_ms", {"election_timeout_ms": 0}),
        ("extra_args", {"extra_args": ["--bind_ip=0.0.0.0"]}),
        ("extra_args", {"extra_args": "--quiet"}),
        ("parameters", {"parameters": {"a b": 1}}),
    ],
)
def test_a_wrong_argument_is_refused_by_name(option: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(OptionInvalid, match=f"^{option}="):
        embedded.start(**arguments)


def test_a_server_started_in_a_thread_outlives_that_thread() -> None:
    started: list[embedded.EmbeddedServer] = []
    thread = threading.Thread(target=lambda: started.append(embedded.start()))
    thread.start()
    thread.join()
    with started[0] as server:
        assert put_and_get(server.uri) == 1


def test_servers_started_at_the_same_time_keep_apart() -> None:
    started: list[embedded.EmbeddedServer] = []
    threads = [threading.Thread(target=lambda: started.append(embedded.start())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert len({server.nodes[0].port for server in started}) == 3
        assert len({server.path for server in started}) == 3
        assert [count_orders(server.uri) for server in started] == [0, 0, 0]
    finally:
        for server in started:
            server.stop()


# --- a directory of the user's --------------------------------------------------------------------------------------


def test_a_kept_directory_opens_again_with_its_data_on_the_same_port(tmp_path: Path) -> None:
    with embedded.start(tmp_path / "data") as first:
        put_and_get(first.uri)
    with embedded.start(tmp_path / "data") as second:
        assert count_orders(second.uri) == 1
        assert second.uri == first.uri


def test_a_kept_directory_opens_again_on_another_port(tmp_path: Path) -> None:
    with embedded.start(tmp_path) as first:
        put_and_get(first.uri)
    with embedded.start(tmp_path, port=first.nodes[0].port + 1) as second:
        assert count_orders(second.uri) == 1
        assert put_and_get(second.uri, 2) == 2
        assert second.uri != first.uri


def test_a_kept_directory_opens_again_while_the_mongod_of_a_killed_program_is_still_stopping(tmp_path: Path) -> None:
    with running(WAITS, str(tmp_path)) as program:
        program.process.kill()
        with embedded.start(tmp_path) as server:
            assert put_and_get(server.uri) == 1
            assert not any(is_alive(pid) for pid in program.pids)


# --- three nodes and their faults -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three() -> Iterator[embedded.EmbeddedServer]:
    with embedded.start(nodes=3, election_timeout_ms=1500) as server:
        yield server


def primary_of(server: embedded.EmbeddedServer) -> embedded.Node:
    found: list[embedded.Node] = []

    def look() -> bool:
        found.extend(node for node in [server.primary()] if node is not None)
        return bool(found)

    assert eventually(look, within_s=30)
    return found[0]


def test_three_nodes_elect_a_primary(three: embedded.EmbeddedServer) -> None:
    assert len({node.pid for node in three.nodes}) == 3
    assert three.primary() is not None
    assert put_and_get(three.uri, 3) == 3


def test_another_node_becomes_primary_when_the_primary_is_killed(three: embedded.EmbeddedServer) -> None:
    old = primary_of(three)
    old.kill()
    assert old.pid is None
    assert primary_of(three) is not old
    old.start()
    three.wait_healthy()
    assert put_and_get(three.uri, 4) == 4


def test_a_suspended_node_does_not_answer_until_it_is_resumed(three: embedded.EmbeddedServer) -> None:
    old = primary_of(three)
    old.suspend()
    try:
        assert primary_of(three) is not old
    finally:
        old.resume()
    three.wait_healthy()


def test_a_node_stands_still_when_it_is_suspended(server: embedded.EmbeddedServer) -> None:
    """Each time: what runs on for a moment answers what comes in that moment."""
    (node,) = server.nodes
    pid = node.pid
    assert pid is not None
    for _ in range(20):
        node.suspend()
        states = {stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")}
        node.resume()
        assert states == {"T"}


def test_waiting_for_health_outlives_connections_that_the_server_closes(tmp_path: Path) -> None:
    with embedded.start(tmp_path, nodes=2, parameters={"enableTestCommands": 1}) as two:
        with connected(two.nodes[0]) as client:
            client.admin.command(
                "configureFailPoint",
                "failCommand",
                mode={"times": 2},
                data={"failCommands": ["replSetGetStatus"], "closeConnection": True},
            )
        two.wait_healthy()


def test_three_kept_nodes_open_again_on_other_ports(tmp_path: Path) -> None:
    with embedded.start(tmp_path, nodes=3, election_timeout_ms=1500) as first:
        put_and_get(first.uri)
    with embedded.start(tmp_path, nodes=3, port=_three_free_ports()) as second:
        assert count_orders(second.uri) == 1
        assert second.uri != first.uri
    with pytest.raises(EmbeddedError, match=r"holds a set of 3 node\(s\), not of 1\nOpen it with nodes=3"):
        embedded.start(tmp_path)


def _three_free_ports() -> int:
    while True:
        port = free_port()
        if is_free(port + 1) and is_free(port + 2):
            return port


# --- no mongod outlives its program ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_program_dies_by_a_signal(how: signal.Signals) -> None:
    with running(WAITS) as program:
        program.process.send_signal(how)
        assert_all_gone(program)


@pytest.mark.parametrize(
    "ending",
    [
        "sys.exit(3)",
        "raise ValueError('a bug')",
        "os._exit(1)",
        "os.execv('/bin/sleep', ['sleep', '60'])",
        "threading.Thread(target=time.sleep, args=(0.2,)).start()",
    ],
    ids=["exit", "exception", "hard exit", "exec", "a thread still runs"],
)
def test_nothing_is_left_when_the_program_ends_in_another_way(ending: str) -> None:
    with running(f"tell(); sys.stdin.readline(); sys.stderr.close(); {ending}") as program:
        assert program.process.stdin is not None
        program.process.stdin.write("go\n")
        program.process.stdin.flush()
        assert_all_gone(program)


def test_a_program_that_exits_is_gone_only_after_its_mongod() -> None:
    """So that whatever starts next finds the port and the directory free."""
    with running("tell(); sys.stdin.readline()") as program:
        program.process.communicate("go\n")
        assert not any(is_alive(pid) for pid in program.pids)


def test_a_kept_directory_is_whole_after_its_program_was_killed(tmp_path: Path) -> None:
    with running(WAITS, str(tmp_path)) as program:
        put_and_get(f"mongodb://127.0.0.1:{_port_of(tmp_path)}/?replicaSet=rs0")
        program.process.kill()
        assert_all_gone(program, directory_too=False)
    with embedded.start(tmp_path) as server:
        assert count_orders(server.uri) == 1


def _port_of(path: Path) -> int:
    ports: list[int] = json.loads((path / "streamq.ports").read_text())
    return ports[0]


def test_mongod_dies_with_its_minder_and_the_next_start_sweeps_the_directory() -> None:
    with running(WAITS) as program:
        os.kill(program.told["minder"], signal.SIGKILL)
        assert_all_gone(program, directory_too=False)
        program.process.kill()
        program.process.wait()
        assert program.path.exists()
        with embedded.start() as server:
            assert not program.path.exists()
            assert server.path.exists()


def test_a_start_leaves_the_directories_of_living_servers_alone() -> None:
    with embedded.start() as first, embedded.start() as second:
        assert first.path.exists()
        assert put_and_get(first.uri) == 1
        assert put_and_get(second.uri) == 1


def test_stop_removes_the_directory_when_the_minder_was_killed() -> None:
    with embedded.start() as server:
        os.kill(server.minder_pid, signal.SIGKILL)
        with pytest.raises(EmbeddedError, match="does not answer: it was killed"):
            assert eventually(lambda: server.nodes[0].pid is None)
    assert not server.path.exists()


def test_a_forked_child_neither_stops_the_server_nor_keeps_it_alive() -> None:
    code = """
child = os.fork()
if child == 0:
    server.stop()
    pid = os.fork()
    if pid == 0:
        sys.exit(0)      # runs the exit functions inherited from the parent
    os.waitpid(pid, 0)
    time.sleep(60)       # holds whatever descriptors it inherited
    os._exit(0)
time.sleep(0.3)
tell(child=child)
sys.stdin.read()
"""
    with running(code) as program:
        child = program.told["child"]
        try:
            assert all(is_alive(pid) for pid in program.pids)
            assert put_and_get(f"mongodb://127.0.0.1:{_listening_port(program.told['mongod'])}/?directConnection=true")
            program.process.kill()
            assert_all_gone(program)
            assert is_alive(child)
        finally:
            os.kill(child, signal.SIGKILL)


def _listening_port(pid: int) -> int:
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return int(command[command.index("--port") + 1])


def test_another_child_of_the_program_does_not_keep_the_server_alive() -> None:
    code = """
import subprocess
child = subprocess.Popen(["sleep", "60"], close_fds=False)
tell(child=child.pid)
sys.stdin.read()
"""
    with running(code) as program:
        try:
            program.process.kill()
            assert_all_gone(program)
        finally:
            os.kill(program.told["child"], signal.SIGKILL)


def test_ctrl_c_reaches_the_program_and_not_its_mongod() -> None:
    code = """
try:
    tell()
    time.sleep(60)
except KeyboardInterrupt:
    tell(settled=server.nodes[0].pid is not None)
    sys.stdin.read()
"""
    with running(code) as program:
        assert os.getsid(program.told["minder"]) != os.getsid(program.process.pid)
        assert os.getpgid(program.told["mongod"]) != os.getpgid(program.process.pid)
        program.process.send_signal(signal.SIGINT)
        assert program.process.stdout is not None
        assert json.loads(program.process.stdout.readline())["settled"] is True


def test_a_program_that_blocks_and_ignores_signals_can_use_it() -> None:
    code = """
server.stop()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGINT})
server = embedded.start()
tell()
sys.stdin.read()
server.stop()
"""
    with running(code) as program:
        os.kill(program.told["minder"], signal.SIGTERM)
        assert_all_gone(program)
        assert program.process.stdin is not None
        program.process.stdin.close()
        assert program.process.wait(30) == 0


def test_temporary_directories_are_the_users_own() -> None:
    with embedded.start() as server:
        assert server.path.parent.parent == Path(tempfile.gettempdir())
        assert server.path.stat().st_mode & 0o077 == 0
        assert server.path.parent.stat().st_mode & 0o077 == 0
