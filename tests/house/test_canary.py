"""A password that is shown fails the test in which it was: tried in each of the ways in which it could be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

SHOWN: Final = """
import logging, subprocess, sys, time
import pytest
from tests.canary import CANARY, PASSWORD

def test_printed():
    print(PASSWORD)

def test_taken(capsys):
    print("mongodb://user:" + PASSWORD)
    capsys.readouterr()

def test_logged():
    logging.getLogger("streamq").warning("to %s", PASSWORD)

def test_raised():
    raise ValueError(PASSWORD)

def test_said_by_a_program():
    subprocess.run([sys.executable, "-c", "import os; print(os.environ['STREAMQ_TESTS_CANARY'])"], capture_output=True)

def test_named_to_a_program():
    subprocess.run([sys.executable, "-c", "", CANARY])

@pytest.fixture
def left():
    yield
    print(PASSWORD)

def test_printed_at_the_end(left): ...

def test_hidden():
    pass
"""

LEFT: Final = """
import os, subprocess, sys, time
import pytest
from tests.canary import CANARY

pytestmark = pytest.mark.parametrize("lab", ["mongo"])  # or it would be left out: it uses no server

def test_written(lab, tmp_path):
    (tmp_path / "a.log").write_text(CANARY)

UNTIL = "import os, sys, time; any(os.path.exists(sys.argv[2]) or time.sleep(0.1) for _ in range(1200))"

def test_named_to_a_program_of_a_program(lab, tmp_path):
    seen = tmp_path.parent / "canary0" / "seen.txt"
    last = f"[sys.executable, '-c', {UNTIL!r}, os.environ['X'], {str(seen)!r}]"
    code = f"import os, subprocess, sys; subprocess.run({last})"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "X": CANARY})
"""


def run(directory: Path, code: str, *arguments: str) -> str:
    """Run tests as this suite's are run; return what is said at the end."""
    (directory / "test_it.py").write_text(code)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(directory),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "STREAMQ"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, *arguments, f"--basetemp={directory / 'tmp'}", str(directory / "test_it.py")],
        cwd=directory,
        env=environment,
        text=True,
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_password_that_is_shown_fails_the_test_that_shows_it(tmp_path: Path) -> None:
    said = run(tmp_path, SHOWN)
    assert "6 failed, 2 passed, 1 error" in said
    for where in ("output", "captured log call", "report of its failure", "arguments of a program"):
        assert f"a password was shown in: {where}" in said


def test_password_that_is_left_behind_fails_the_run(tmp_path: Path) -> None:
    said = run(tmp_path, LEFT, "--auth")
    assert "2 passed, 1 error" in said
    assert "a.log" in said
    assert "arguments of a program (of its programs)" in said
