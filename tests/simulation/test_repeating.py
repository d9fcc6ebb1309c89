"""A seed is all that a run depends on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from tests.simulation.drawing import drawn
from tests.simulation.plan import decoded, encoded
from tests.simulation.run import Seen, play

SEEDS = range(1_000, 1_006)

PROGRAM = """
from tests.simulation.test_repeating import SEEDS, digest
print(digest())
"""


def told(seen: Seen) -> str:
    return msgspec.json.encode([seen.history, seen.lasted_s]).decode()


def digest() -> str:
    return str([told(play(drawn(seed))) for seed in SEEDS])


def test_seed_gives_the_same_history_in_another_process() -> None:
    """The order of sets is by hashes, which each process salts anew."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": f"{root}:{root / 'src'}"}
    there = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == digest()


def test_plan_that_was_printed_gives_the_same_history() -> None:
    plan = drawn(SEEDS[0])
    assert decoded(encoded(plan)) == plan
    assert told(play(decoded(encoded(plan)))) == told(play(plan))
