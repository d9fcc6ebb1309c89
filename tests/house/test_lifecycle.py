"""The picture of a task's life is drawn from the table that the code obeys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from streamq.core.transitions import BORN, MEANINGS, TABLE

DRAW = Path(__file__).parents[2] / "docs" / "draw_lifecycle.py"


def test_lifecycle_page_is_drawn_from_the_table_as_it_is() -> None:
    checked = subprocess.run([sys.executable, DRAW, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_every_move_has_a_meaning_and_no_meaning_is_left_over() -> None:
    moves = {move for moves in TABLE.values() for move in moves}
    assert set(MEANINGS) == moves | set(BORN)
