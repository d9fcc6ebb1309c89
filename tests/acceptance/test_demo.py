"""The demo as a user runs it: what it says is true, and whenever it is stopped it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import eventually

MARK = "STREAMQ_TEST_MARK"
"""An environment variable that all processes of one demo inherit, by which they are found."""


class Demo:
    """One run of the demo in a process group of its own, its temporary directories below `tmp`."""

    def __init__(self, tmp: Path, *arguments: str) -> None:
        self.mark = uuid.uuid4().hex
        self.tmp = tmp
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamq.demo", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, MARK: self.mark, "TMPDIR": str(tmp)},
        )

    def wait_line(self, part: str) -> str:
        """Read stdout up to a line that holds `part`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if part in line:
                return line
        raise AssertionError(f"{part!r} never came; stderr: {self.process.communicate()[1]}")

    def interrupt(self) -> None:
        """Press Ctrl-C: the whole process group gets SIGINT."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; return exit code, the rest of stdout, stderr."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def pids(self, word: str = "") -> list[int]:
        """Find the processes it started that still run, by `word` in their command line."""
        return [pid for pid in _pids_with(f"{MARK}={self.mark}") if word in _command(pid)]

    def leftovers(self) -> list[str]:
        """Name what is left: processes, and directories of embedded servers."""
        processes = [f"{pid}: {_command(pid)}" for pid in self.pids()]
        return processes + [str(one) for one in self.tmp.glob("streamq-embedded-*/set-*")]


def _pids_with(setting: str) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if setting.encode() in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)
        except OSError:
            continue  # it has ended meanwhile


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    """Where the demo may make temporary directories."""
    made = tmp_path / "tmp"
    made.mkdir()
    return made


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Thirty modules, one of them broken, one dangling link, and files that are none of its business."""
    root = tmp_path / "tree"
    (root / "package" / "site-packages").mkdir(parents=True)
    for number in range(28):
        (root / "package" / f"m{number}.py").write_text("class A:\n    def f(self): ...\n" + "x = 1\n" * number)
    (root / "broken.py").write_text("def f(:\n")
    (root / "dangling.py").symlink_to(root / "nowhere.py")
    (root / "package" / "site-packages" / "foreign.py").write_text("")
    (root / "notes.txt").write_text("")
    os.mkfifo(root / "pipe.py")
    return root


def test_demo_puts_every_file_and_shows_what_became_of_each(tmp: Path, tree: Path) -> None:
    demo = Demo(tmp, "--dir", str(tree))
    code, out, err = demo.end()
    assert (code, err) == (0, "")
    assert re.search(r"^succeeded +28$", out, re.M)
    assert re.search(r"^failed +2$", out, re.M)
    assert "All 30 tasks that were put have ended and are in the database: the counts add up." in out
    assert re.search(r"^broken\.py +2 +SyntaxError: ", out, re.M)
    assert re.search(r"^dangling\.py +2 +FileNotFoundError: ", out, re.M)
    assert re.search(r"^package/m27\.py +29 +1 +1$", out, re.M)
    assert "pickup" in out
    assert demo.leftovers() == []


def test_demo_prints_no_control_codes_where_there_is_no_terminal(tmp: Path, tree: Path) -> None:
    (tree / "\x1b[31mred.py").write_text("def f(:\n")
    code, out, _ = Demo(tmp, "--dir", str(tree)).end()
    assert code == 0
    assert r"\x1b[31mred.py" in out
    assert not re.search(r"[^\n\x20-\x7e\u00a0-\uffff]", out)


def test_a_tree_without_modules_ends_at_once(tmp: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code, out, err = Demo(tmp, "--dir", str(empty)).end()
    assert (code, err) == (0, "")
    assert "nothing to put" in out
    assert list(tmp.iterdir()) == []


def test_what_is_no_directory_is_refused_in_one_line(tmp: Path) -> None:
    code, out, err = Demo(tmp, "--dir", "/no/such/place").end()
    assert (code, out) == (2, "")
    assert err == "streamq.demo: --dir /no/such/place is not a directory\n"


@pytest.mark.parametrize("moment", ["streamq demo", "are up", "one at a time", "in chunks of", "succeeded"])
def test_an_interrupted_demo_leaves_nothing(tmp: Path, moment: str) -> None:
    demo = Demo(tmp)
    demo.wait_line(moment)
    demo.interrupt()
    code, _, err = demo.end()
    assert (code, err) == (130, "Interrupted: stopped cleanly.\n")
    assert demo.leftovers() == []


def test_a_demo_interrupted_while_it_prints_leaves_nothing(tmp: Path, tree: Path) -> None:
    demo = Demo(tmp, "--dir", str(tree))
    demo.wait_line("Tasks by status")
    demo.interrupt()
    code, out, err = demo.end()
    assert code == 130 or (code == 0 and "the counts add up" in out)
    assert "Traceback" not in err
    assert demo.leftovers() == []


def test_a_terminated_demo_leaves_nothing(tmp: Path) -> None:
    demo = Demo(tmp)
    demo.wait_line("in chunks of")
    demo.process.terminate()
    code, _, err = demo.end()
    assert (code, err) == (130, "Interrupted: stopped cleanly.\n")
    assert demo.leftovers() == []


@pytest.mark.parametrize("moment", ["are up", "in chunks of"])
def test_a_killed_demo_leaves_nothing(tmp: Path, moment: str) -> None:
    demo = Demo(tmp)
    demo.wait_line(moment)
    assert demo.pids("crewman")
    assert demo.pids("mongod")
    demo.process.kill()
    demo.end()
    assert eventually(lambda: demo.leftovers() == []), demo.leftovers()


def test_a_second_interrupt_ends_it_at_once_and_leaves_nothing(tmp: Path) -> None:
    demo = Demo(tmp)
    demo.wait_line("in chunks of")
    demo.interrupt()
    demo.interrupt()
    code, _, err = demo.end()
    assert code in (-signal.SIGINT, 130)
    assert "Traceback" not in err
    assert eventually(lambda: demo.leftovers() == []), demo.leftovers()


def test_the_tasks_of_a_killed_worker_are_done_by_the_other(tmp: Path, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.mkdir()
    for number in range(200):
        (big / f"m{number}.py").write_text("def f(a, b=1):\n    return a + b\n" * 1_000)
    demo = Demo(tmp, "--dir", str(big))
    demo.wait_line("in chunks of")
    os.kill(demo.pids("crewman")[0], signal.SIGKILL)
    demo.wait_line("signal 9")
    code, out, err = demo.end()
    assert (code, err) == (0, "")
    assert "the counts add up" in out
    assert demo.leftovers() == []
