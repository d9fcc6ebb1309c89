"""The page of the settings names each of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamq import StreamQ

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()

SECTIONS: dict[str, Callable[..., Any]] = {
    "StreamQ": StreamQ.__init__,
    "@app.task": StreamQ.task,
    "app.work": StreamQ.work,
}

NOT_SETTINGS = {"self", "function", "task_status"}


def named(section: str) -> set[str]:
    """Return what the first column of a section's table names."""
    text = next(part for part in PAGE.split("\n## ") if f"`{section}(" in part.splitlines()[0])
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


@pytest.mark.parametrize("section", SECTIONS)
def test_each_parameter_is_on_the_page_and_nothing_else(section: str) -> None:
    assert named(section) == inspect.signature(SECTIONS[section]).parameters.keys() - NOT_SETTINGS
