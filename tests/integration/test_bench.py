"""`streamq bench`: every scenario runs, ends in its time, says what it found as JSON, and leaves nothing behind.

No figure is judged here: how fast something is on a machine of CI says nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

import streamq
from streamq import StreamQ
from streamq.bench import place
from streamq.bench.floor.delayed import far_ahead
from streamq.bench.floor.document import claim_update, document, new_claim_id
from streamq.bench.latencies import Latencies
from streamq.bench.machine import machine
from streamq.bench.ours.putting import declared
from streamq.bench.place import PREFIX, QUEUE, server_counts
from streamq.cli import main
from streamq.embedded import EmbeddedServer

SOURCE = str(Path(streamq.__file__).parents[1])

SMALL = {
    "latency": "--rate 200 --seconds 0.3 --rounds 1 --warm-up 10",
    "load": "--rate 400 --seconds 0.4 --rounds 1 --slots 8",
    "throughput": "--tasks 400 --rounds 1",
    "drain": "--tasks 400 --processes 2",
    "delayed": "--at-once --tasks 100 --other-rate 20",
    "lease": "--rounds 1 --tasks 2",
    "fanout": "--processes 2 --rate 50 --seconds 0.3 --rounds 1",
    "idle": "--seconds 0.3 --handlers 5 --workers 2",
    "backlog": "--ready 300 --ready 600 --claims 100 --rounds 1",
    "puts": "--tasks 8 --seconds 0.2 --rounds 1",
    "consumers": "--consumers 4 --consumers 40 --tasks 300 --rounds 1",
    "memory": "--tasks 500 --put-many 500",
    "startup": "--rounds 1",
}

FIGURES = {
    "latency": ("p50_ms", "p99_ms", "from_call_p99_ms"),
    "load": ("p50_ms", "p99_ms"),
    "throughput": ("per_s",),
    "drain": ("per_s",),
    "delayed": ("released_per_s",),
    "lease": ("p50_ms", "p99_ms"),
    "fanout": ("p99_ms", "wasted_per_task", "conflicts_per_claim"),
    "idle": ("commands_per_s", "cpu_percent", "rss_mb", "mongod_cpu_percent"),
    "backlog": ("claims_per_s",),
    "puts": ("per_s",),
    "consumers": ("per_s",),
    "memory": ("growth_mb", "put_many_peak_mb"),
    "startup": ("import_s", "first_claim_s"),
}

DRAWN = {"latency", "throughput", "idle"}
"""One of each kind of plot."""

Bench = Callable[..., dict[str, Any]]


@pytest.fixture
def bench(admin_uri: str, capfd: pytest.CaptureFixture[str]) -> Bench:
    """Run a scenario on the session's server and return its line; it leaves no database."""

    def run(scenario: str, *arguments: str) -> dict[str, Any]:
        code = main(["bench", scenario, *arguments, "--uri", admin_uri, "--json"])
        out, err = capfd.readouterr()
        assert code == 0, err
        with MongoClient[dict[str, Any]](admin_uri) as client:
            assert [name for name in client.list_database_names() if name.startswith(PREFIX)] == []
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    return run


@pytest.mark.parametrize("scenario", SMALL)
def test_scenario_answers_with_ratios_figures_and_the_machine(scenario: str, bench: Bench, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"

    drawn = ["--svg", str(plot)] if scenario in DRAWN else []
    found = bench(scenario, *SMALL[scenario].split(), "--duration", "90", *drawn)

    assert found["scenario"] == scenario
    assert found["unfinished"] == []
    assert {"ratio", "ratio_p50", "ratio_p99"} & found.keys()
    assert found["machine"]["mongod"]
    assert len(found["machine"]["load"]) == 3
    for contender in ("floor", "streamq"):
        assert set(FIGURES[scenario]) <= found[contender].keys()
    assert plot.exists() == bool(drawn)
    if scenario in MORE:
        MORE[scenario](found)


def test_cpu_of_a_server_is_not_asked_of_another_machines_process(
    server: EmbeddedServer, admin_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server behind a tunnel says a process id that is somebody else's here, or nobody's."""
    counts, pid = server_counts(admin_uri)
    assert (pid, counts["command"] > 0) == (server.nodes[0].pid, True)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "another")
        assert server_counts(admin_uri)[1] is None
    monkeypatch.setattr(place, "name_of", lambda pid: "sshd")
    assert server_counts(admin_uri)[1] is None


def _latency(found: dict[str, Any]) -> None:
    for contender in ("floor", "streamq"):
        counts = {name: one["count"] for name, one in found[f"phases_{contender}"].items()}
        assert set(counts) == {"late", "put_ack", "ack_to_event", "event_to_claimed", "claimed_to_handler"}
        assert counts["put_ack"] == found[contender]["count"] == 60
        assert Latencies(found["histograms"][contender]).ms(50) == found[contender]["p50_ms"]


def _delayed(found: dict[str, Any]) -> None:
    assert found["streamq"]["released_per_s"] > 0
    assert found["early"] == 0
    assert sum(one["count"] for one in found["other_queue"].values()) > 0


def _consumers(found: dict[str, Any]) -> None:
    assert found["consumers"]["40"]["streams"] == 1
    assert found["consumers"]["40"]["threads"] > 0


MORE: dict[str, Callable[[dict[str, Any]], None]] = {
    "latency": _latency,
    "delayed": _delayed,
    "consumers": _consumers,
}
"""What else must be found of some scenarios."""


def test_run_ends_within_its_duration_and_says_what_was_not_done(bench: Bench) -> None:
    began_at = time.monotonic()

    found = bench("drain", "--tasks", "5000000", "--duration", "3")

    # Storing them all takes a minute at the very least; the machine of a test may be busy.
    assert time.monotonic() - began_at < 15
    assert found["unfinished"]


def test_latency_compares_both_ways_to_wake_in_one_run(bench: Bench) -> None:
    found = bench("latency", *SMALL["latency"].split(), "--wake", "both")
    assert [found[name]["count"] for name in ("floor", "streamq", "tailable")] == [60, 60, 60]
    assert {"pickup_p50", "pickup_p99", "put_ack_p50", "put_ack_p99"} == found["tailable_to_stream"].keys()


def test_nodes_are_refused_beside_a_server_that_is_given(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "puts", "--uri", "mongodb://127.0.0.1:1/", "--nodes", "3"]) == 2
    assert "--nodes" in capfd.readouterr().err


def test_compare_shows_figures_side_by_side_and_what_differs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    line = {
        "scenario": "puts",
        "ratio": 2.0,
        "streamq": {"per_s": 100},
        "options": {"tasks": 8},
        "machine": {"cores": 2},
    }
    a.write_text("noise\n" + json.dumps(line))
    b.write_text(json.dumps(line | {"ratio": 3.0, "streamq": {"per_s": 50}, "options": {"tasks": 16}}))

    assert main(["bench", "compare", str(a), str(b), "--json"]) == 0

    found = json.loads(capfd.readouterr().out)
    assert found["figures"]["streamq.per_s"] == {"a": 100, "b": 50, "b/a": 0.5}
    assert found["figures"]["ratio"]["b/a"] == 1.5
    assert found["differs"] == {"options.tasks": [8, 16]}


def test_compare_refuses_answers_of_different_scenarios(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text('{"scenario": "puts"}')
    b.write_text('{"scenario": "idle"}')

    assert main(["bench", "compare", str(a), str(b)]) == 2
    assert "nothing to compare" in capfd.readouterr().err


def test_server_elsewhere_is_refused_unless_it_is_said_to_be_ones_own(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "puts", "--uri", "mongodb://192.0.2.1:27017"]) == 2
    assert "--i-own-this-server" in capfd.readouterr().err


def test_duration_too_short_to_measure_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "puts", "--duration", "1"]) == 2
    assert "duration" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_run_that_is_ended_leaves_no_process_behind(number: signal.Signals) -> None:
    argv = [sys.executable, "-m", "streamq", "bench", "idle", "--seconds", "60"]
    run = subprocess.Popen(
        argv, env={**os.environ, "PYTHONPATH": SOURCE}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        # A worker, the embedded server's minder, its mongod.
        pids = _until(lambda: pids if len(pids := _descendants(run.pid)) >= 3 else None)
        run.send_signal(number)
        assert run.wait(20) != 0
        _until(lambda: not any(_runs(pid) for pid in pids) or None)
    finally:
        with contextlib.suppress(ProcessLookupError):
            run.kill()
        run.wait()


def _until(look: Callable[[], Any], patience_s: float = 30.0) -> Any:
    """Look until there is something. Processes of others send no signal to us."""
    until = time.monotonic() + patience_s
    while (found := look()) is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


def _descendants(pid: int) -> list[int]:
    parents = {}
    for one in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(one.name)] = int((one / "stat").read_text().rpartition(")")[2].split()[1])
    found, new = [], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_floor_stores_and_claims_what_streamq_does(admin_uri: str, database: str) -> None:
    app = StreamQ(admin_uri, database=database)
    noop = declared(app)
    async with app:
        await app.put_many([noop.new(0), noop.options(delay_s=9).new(0)])
    with MongoClient[dict[str, Any]](admin_uri) as client:
        tasks = client[database]["tasks"]
        ready, delayed = tasks.find_one({"status": "ready"}), tasks.find_one({"status": "delayed"})
        assert ready is not None
        assert delayed is not None
        floor = document(0)
        told = ("_id", "seq", "created_at", "reply_to")
        assert {k: v for k, v in ready.items() if k not in told} == {k: v for k, v in floor.items() if k not in told}
        assert delayed.keys() == document(0, **far_ahead()).keys() | (delayed.keys() & {"reply_to"})
        held = app.blocking.queue(QUEUE).claim()
        assert held is not None
        claimed = tasks.find_one({"status": "running"})
        tasks.insert_one(floor)
        tasks.update_one({"_id": floor["_id"]}, claim_update(new_claim_id()))
        ours = tasks.find_one({"_id": floor["_id"]})
        assert claimed is not None
        assert ours is not None
        assert claimed.keys() - {"reply_to"} == ours.keys()
    app.close()


def test_machine_block_names_what_was_measured_on(admin_uri: str) -> None:
    found = machine(admin_uri)

    assert found["cores"] > 0
    assert found["python"]
    assert found["mongod"].startswith("6.")
    assert found["disk"]
