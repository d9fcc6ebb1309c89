"""What the table of protections names is there: each test, and each function in the source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "protections.md").read_text()
RELIABILITY: Final = (ROOT / "docs" / "reliability.md").read_text()
TEST: Final = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
SOURCE: Final = re.compile(r"`([\w/]+\.py)::(\w+)(?:\.(\w+))?`")
ROW: Final = re.compile(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
FAULT: Final = re.compile(r"^\| `([\w-]+)` \|", re.MULTILINE)


def has(path: Path, name: str) -> bool:
    """Say whether a file defines it: a function, a class, or a value of the module."""
    pattern = rf"^\s*(?:async def|def|class) {name}\b|^{name}\b[^\n(]*="
    return path.exists() and re.search(pattern, path.read_text(), re.MULTILINE) is not None


def test_tests_that_the_page_names_are_there() -> None:
    named = TEST.findall(PAGE)
    assert named
    assert [one for one in named if not (ROOT / one[0]).exists() or (one[1] and not has(ROOT / one[0], one[1]))] == []


def test_functions_that_the_page_names_are_there() -> None:
    named = [one for one in SOURCE.findall(PAGE) if not one[0].startswith("tests/")]
    assert named
    source = ROOT / "src" / "streamq"
    assert [one for one in named if not all(has(source / one[0], name) for name in one[1:] if name)] == []


def test_each_row_names_a_test_and_how_it_was_shown() -> None:
    rows = [row for row in ROW.findall(PAGE) if row[0] != "fault" and not row[0].startswith("---")]
    assert rows
    assert [row for row in rows if not TEST.search(row[1])] == []
    assert [row for row in rows if not row[2].startswith(("by hand: ", "control: ", "not taken out: "))] == []


def test_each_nemesis_and_each_promise_has_a_row() -> None:
    named = " ".join(row[0] for row in ROW.findall(PAGE))
    wanted = {*FAULT.findall(RELIABILITY.partition("## The faults")[2].partition("## Every call")[0])}
    assert wanted
    assert {name for name in wanted if f"`{name}`" not in named} == set()
    assert {f"P{n}" for n in range(1, 21)} - set(re.findall(r"\bP\d+\b", named)) == set()
