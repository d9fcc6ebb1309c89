"""Every Python block of the README and of docs/ runs, and prints what the `text output` block after it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import streamq
from tests.access import Access
from tests.integration.logged import without_failed_tasks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCE = str(Path(streamq.__file__).parents[1])

BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\s*^```text output\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL
)

DATABASE = re.compile(r'database="(\w+)"')
DEFAULTS = ("streamq", "shop")
"""Where a block has its tasks and its orders that names no database."""


def blocks() -> list[object]:
    """Find the blocks, each named by its page and line."""
    return [
        pytest.param(found["code"], found["output"], id=f"{page.name} line {text[: found.start()].count(chr(10)) + 1}")
        for page in PAGES
        for text in [page.read_text()]
        for found in BLOCK.finditer(text)
    ]


@pytest.mark.parametrize(("code", "output"), blocks())
def test_block_runs(code: str, output: str | None, access: Access, tmp_path: Path) -> None:
    program = tmp_path / "block.py"
    program.write_text(code)
    with access.opened(*{*DEFAULTS, *DATABASE.findall(code)}):
        done = subprocess.run(
            [sys.executable, "-W", "error", str(program)],
            env={**os.environ, "STREAMQ_URI": access.uri, "PYTHONPATH": SOURCE},
            cwd=tmp_path,
            text=True,
            capture_output=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in without_failed_tasks(done.stderr)  # as of something that the block leaves open
    if output is not None:
        assert done.stdout == output
