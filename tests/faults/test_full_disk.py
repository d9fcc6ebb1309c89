"""The disk of the primary runs full: mongod ends itself, puts say what is known of them, and nothing is lost; where
there are others, one of them is elected and puts go on.

The disk is a small tmpfs in a mount namespace of the test's own: it goes with its last process, however that ends.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.chaos.actor import ROOT
from tests.faults.full_disk import FEW, Seen
from tests.faults.full_disk_of_three import SeenOfThree
from tests.long_form import sized

SIZE_MB: Final = 160
ALONE: Final = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
MOUNT: Final = f'mount -t tmpfs -o size={SIZE_MB}m streamq "$0"'
SIGABRT: Final = -6
RUN_S: Final = 150.0

RESUMED_S: Final = 30.0
"""More than an election, on a machine that has other things to do."""


@pytest.fixture(scope="module", params=range(sized(1, 10)))
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Run it once for all tests."""
    directory = tmp_path_factory.mktemp("disk")
    return msgspec.json.decode(_run("tests.faults.full_disk", directory, directory), type=Seen)


@pytest.fixture(scope="module", params=range(sized(1, 10)))
def of_three(tmp_path_factory: pytest.TempPathFactory) -> SeenOfThree:
    """Run it once for all tests of three nodes."""
    directory = tmp_path_factory.mktemp("disks")
    small = directory / "node0"
    small.mkdir()
    return msgspec.json.decode(_run("tests.faults.full_disk_of_three", directory, small), type=SeenOfThree)


def _run(program: str, directory: Path, small: Path) -> str:
    """Run a program with a small file system, return what it says."""
    _require_mounts(small)
    run = subprocess.run(
        [*ALONE, f'{MOUNT} && exec "$1" -m "$2" "$3"', str(small), sys.executable, program, str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4_000:]
    return run.stdout


def _require_mounts(directory: Path) -> None:
    """Skip where a file system of one's own cannot be had."""
    try:
        tried = subprocess.run([*ALONE, MOUNT, str(directory)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"a small disk needs `unshare` (Debian: util-linux): {error}")
    if tried.returncode:
        pytest.skip(f"a small disk needs the right to mount (root): {tried.stderr.strip()}")


def test_server_with_a_full_disk_ends_and_says_why(seen: Seen) -> None:
    """It does not answer "no" to writes: it aborts, and comes up again when there is room."""
    assert seen.exit_code == SIGABRT
    assert "the disk is full" in seen.start_refused
    assert "Make room" in seen.start_refused


def test_puts_on_a_full_disk_say_what_is_known_of_them(seen: Seen) -> None:
    """The first was on its way when the server ended; the others found none."""
    assert seen.errors[0].startswith("PutUnknown")
    assert "putting again with the same id is safe" in seen.errors[0]
    assert seen.errors[-1].startswith("StoreUnavailable")
    assert "no server could be reached" in seen.errors[-1]


def test_nothing_is_lost_when_the_disk_was_full(seen: Seen) -> None:
    assert len(seen.acked) > FEW
    assert seen.stored.keys() == set(seen.acked), "what was refused is not there, all else is"
    assert set(seen.stored.values()) == {"succeeded"}
    assert seen.runs.keys() == seen.stored.keys()


def test_primary_of_three_with_a_full_disk_ends_and_another_is_elected(of_three: SeenOfThree) -> None:
    assert of_three.exit_code == SIGABRT
    assert "the disk is full" in of_three.start_refused
    assert of_three.primary != 0
    assert of_three.resumed_s < RESUMED_S


def test_puts_until_another_is_elected_say_what_is_known_of_them(of_three: SeenOfThree) -> None:
    assert all(error.startswith(("PutUnknown", "StoreUnavailable")) for error in of_three.errors), of_three.errors


def test_nothing_is_lost_when_the_disk_of_one_of_three_was_full(of_three: SeenOfThree) -> None:
    """Neither in the set nor on that disk."""
    assert len(of_three.acked) > 2 * FEW
    assert of_three.stored.keys() == set(of_three.acked), "what was refused is not there, all else is"
    assert set(of_three.stored.values()) == {"succeeded"}
    assert set(of_three.stored_there) == of_three.stored.keys()
    assert of_three.runs.keys() == of_three.stored.keys()
