"""What the table of promises names is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "reliability.md").read_text()
NAMED: Final = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
ROW: Final = re.compile(r"^\| (P\d+) [^|]+\|([^|]+)\|", re.MULTILINE)


def test_tests_that_the_page_names_are_there() -> None:
    missing = [
        f"{path}::{test}"
        for path, test in NAMED.findall(PAGE)
        if not (ROOT / path).exists() or (test and f"def {test}(" not in (ROOT / path).read_text())
    ]
    assert not missing


def test_every_promise_has_a_test() -> None:
    rows = dict(ROW.findall(PAGE))
    assert rows.keys() == {f"P{number}" for number in range(1, 21)}
    assert [number for number, tests in rows.items() if not NAMED.search(tests)] == []
