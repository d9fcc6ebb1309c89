"""The run of the peers, without them: what is measured, written and drawn; that nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.peers import contender
from bench.peers.contender import CONTENDERS, ROOT, Contender
from bench.peers.ground import kept
from bench.peers.plot import draw
from bench.peers.process import Program, ProgramFailed
from bench.peers.result import Entry, Latency, Rate, Run, load, store
from bench.peers.run import Asked, measure
from bench.peers.table import BEGIN, END, ahead, markdown, placed, summary
from streamq.errors import UsageError

OWN = [one for one in CONTENDERS if one.runtime == "own"]


def test_a_run_measures_streamq_and_the_floor_in_all_scenarios(admin_uri: str) -> None:
    run = measure(OWN, Asked(rounds=1, seconds=0.2, rate=100, tasks=200), uri=admin_uri, say=lambda line: None)
    assert [entry.name for entry in run.entries] == ["floor", "streamq"]
    for entry in run.entries:
        assert entry.failed is None
        assert entry.latency[0].samples == 20
        assert 0 < entry.pooled_ms["p50"] <= entry.pooled_ms["p99"]
        assert entry.throughput == [Rate(200, entry.throughput[0].per_s, True)]
        assert entry.drain == [Rate(200, entry.drain[0].per_s, True)]


def test_a_peer_whose_environment_is_missing_is_skipped_with_a_sentence(
    admin_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contender, "CACHE", tmp_path)
    absent = Contender("absent", "mongo", "absent", "venv", 1, 1)
    run = measure([absent], Asked(rounds=1), uri=admin_uri, say=lambda line: None)
    assert run.entries == []
    assert "make bench-peers" in run.skipped["absent"]


def test_a_server_on_another_machine_is_refused() -> None:
    with pytest.raises(UsageError, match="not this machine"):
        measure(OWN, Asked(), uri="mongodb://192.0.2.1:27017/?replicaSet=rs0")


# --- processes -------------------------------------------------------------------------------------------------------


class Scripted(Contender, frozen=True):
    """A contender whose program is a script."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", self.program]


def program(script: str) -> Program:
    return Program(Scripted("scripted", "mongo", script, "own", 1, 1), role="consume")


def test_what_a_library_prints_is_passed_over() -> None:
    with program("print('hello'); print('{\"ready\": true}'); print('{\"handled\": 1}')") as one:
        one.wait_ready()
        assert one.result() == {"handled": 1}


def test_a_program_that_ends_early_is_told_with_its_last_words() -> None:
    with program("raise SystemExit('no such server')") as one, pytest.raises(ProgramFailed, match="no such server"):
        one.result()


def test_a_program_that_is_silent_does_not_stop_the_run() -> None:
    with program("import time; time.sleep(60)") as one, pytest.raises(ProgramFailed, match="silent"):
        one.result(timeout_s=0.05)


KEEPING = """
import sys, time
from pathlib import Path
from bench.peers.contender import Contender
from bench.peers.ground import kept
from bench.peers.process import Program

class Scripted(Contender, frozen=True):
    @property
    def command(self):
        return [sys.executable, "-c", "import time; time.sleep(60)"]

with kept(Path(sys.argv[1]), "SIGTERM", "", [sys.executable, "-c", "import time; time.sleep(60)"]) as pid:
    peer = Program(Scripted("scripted", "mongo", "", "own", 1, 1), role="consume")
    print(pid, peer._process.pid, flush=True)
    time.sleep(60)
"""

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_server_ends_with_its_keeper(tmp_path: Path) -> None:
    with kept(tmp_path, "SIGTERM", "", SLEEPER) as pid:
        keeper = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
        os.kill(keeper, signal.SIGKILL)
        wait_gone([pid])


def test_a_server_that_ends_by_itself_is_told_with_its_last_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "server"
    directory.mkdir()
    with kept(directory, "SIGTERM", "", [sys.executable, "-c", "raise SystemExit('no room')"]) as pid:
        wait_gone([pid])
    assert "no room" in capfd.readouterr().err
    assert not directory.exists()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_servers_and_programs_go_with_the_run_whatever_ends_it(tmp_path: Path, ending: signal.Signals) -> None:
    directory = tmp_path / "server"
    directory.mkdir()
    # A run in the background of a shell would not hear SIGINT.
    restored = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", KEEPING, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": paths},
        **restored,  # type: ignore[call-overload]
    ) as run:
        pids = [int(pid) for pid in run.stdout.readline().split()]
        assert len(pids) == 2
        run.send_signal(ending)
    wait_gone(pids, directory)


def wait_gone(pids: list[int], directory: Path | None = None) -> None:
    until = time.monotonic() + 20
    while (directory is not None and directory.exists()) or any(map(is_alive, pids)):
        assert time.monotonic() < until
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


# --- what is written -------------------------------------------------------------------------------------------------


def entry(name: str, kind: str, p50: float, p99: float, put: float, drained: float) -> Entry:
    return Entry(
        name=name,
        kind=kind,
        server=f"{kind} 1.0",
        versions={name: "1.2.3"},
        settings="the best",
        durability="fsync",
        wake="polling",
        latency=[Latency(300, {"p50": p50, "p99": p99}, 0.25, 0.5)],
        pooled_ms={"p50": p50, "p99": p99},
        throughput=[Rate(9_000, put, True), Rate(9_000, put * 3, True), Rate(9_000, put * 2, True)],
        drain=[Rate(9_000, drained, False)],
    )


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    broken = entry("broken", "redis", 0.1, 0.1, 99_999, 99_999)
    broken.failed = "ended | early"
    run = Run(
        at="2026-01-02 03:04 UTC",
        machine={"cores": 2, "mongod": "6.0.5"},
        rounds=3,
        seconds=2,
        rate=100,
        entries=[
            entry("floor", "mongo", 1.0, 2.0, 10_000, 20_000),
            entry("streamq", "mongo", 1.25, 2.5, 8_000, 15_000),
            entry("quick", "postgres", 1.0, 5.0, 4_000, 30_000),
            broken,
        ],
        skipped={"away": "Redis is not installed"},
        took_s=90,
    )
    path = tmp_path / "run.json"
    store(run, path)
    assert load(path) == run
    return path


def test_the_tables_hold_figures_versions_durability_and_who_was_missing(stored: Path) -> None:
    tables = markdown(load(stored))
    assert "| **streamq** | polling | 1.25 | 2.50 | 0.25 / 0.50 | 16,000 | 15,000 (stopped) | 9,000 / 9,000 |" in tables
    assert "| quick | quick 1.2.3 | postgres 1.0 | fsync | the best |" in tables
    assert "| broken | polling | failed: ended / early |" in tables
    assert "- away did not take part: Redis is not installed." in tables
    assert "3 rounds in turns, 2 s each, in 2 min; cores 2, mongod 6.0.5" in tables


def test_who_is_ahead_is_told_and_a_peer_that_failed_is_not(stored: Path) -> None:
    assert ahead(load(stored)) == [
        "- pickup p50: ahead of streamq (1.25): quick (1.00, 0.80 of streamq's). streamq / floor: 1.25.",
        "- pickup p99: ahead of streamq (2.50): none of these. streamq / floor: 1.25.",
        "- throughput: ahead of streamq (16,000): none of these. streamq / floor: 0.80.",
        "- drain: ahead of streamq (15,000): quick (30,000, 2.00 of streamq's). streamq / floor: 0.75.",
    ]


def test_the_summary_shows_the_plot_and_who_is_ahead(stored: Path) -> None:
    run = load(stored)
    assert "(bench/peers/latest.svg)" in summary(run)
    assert "\n".join(ahead(run)) in summary(run)


def test_the_tables_take_their_place_in_the_page_and_leave_the_rest() -> None:
    page = f"# Title\n{BEGIN}\nold\n{END}\nlast\n"
    once = placed(page, "new\n")
    assert once == f"# Title\n{BEGIN}\n\nnew\n\n{END}\nlast\n"
    assert placed(once, "new\n") == once
    for name in ("README.md", "bench/README.md"):
        assert placed((ROOT / name).read_text(), "new\n")


def test_the_plot_shows_every_queue_and_the_same_run_gives_the_same_file(stored: Path, tmp_path: Path) -> None:
    run = load(stored)
    for name in ("one.svg", "two.svg", "one.png"):
        draw(run, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert b"<!-- streamq -->" in (tmp_path / "one.svg").read_bytes()
    assert (tmp_path / "one.png").stat().st_size > 10_000
