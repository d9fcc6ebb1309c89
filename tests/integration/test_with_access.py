"""A part of the suite with access control, in every run; `make test-auth` is all of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import streamq

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = str(Path(streamq.__file__).parents[1])

SOME: Final = (
    "tests/conformance/test_groups.py",
    "tests/conformance/test_pause.py",
    "tests/integration/test_followers.py",
    "tests/integration/test_codec_on_server.py",
)
"""A store, and programs with and without trio."""


def test_tests_hold_for_users_who_have_streamqs_roles_only(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--auth", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path}", *SOME],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": SOURCE},
        text=True,
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) > 20
