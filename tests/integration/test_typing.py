"""The types are part of the door: a put is checked by mypy as a call of the function is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from collections.abc import Sequence
from typing import Any, assert_type

from streamq import Handle, PutReply, Retry, StreamQ

app = StreamQ("mongodb://localhost/?replicaSet=rs0")


@app.task(queue="images", retry=Retry(max_attempts=3), timeout_s=30)
async def resize(path: str, *, width: int = 100) -> float:
    return width / 2


@app.task
def parse(path: str) -> int:
    return len(path)


assert_type(Retry.table([1, 5], never=(KeyError, ValueError)), Retry)


async def main() -> None:
    assert_type(await resize.put("a.png", width=640), Handle[float])
    assert_type(await (await resize.put("a.png")).result(), float)
    assert_type(await resize.options(delay_s=5, priority=9).put("a.png"), Handle[float])
    assert_type(await parse.put("a.py"), Handle[int])
    assert_type(await app.put_many(resize.new(path) for path in "ab"), Sequence[Handle[Any]])
    with app.client.start_session() as session:
        assert_type(await resize.options(session=session, priority=9).put("a.png"), Handle[float])
        assert_type(app.blocking.handler(resize).options(session=session).put("a.png", width=1), PutReply)
    assert_type(await resize("a.png"), float)
    assert_type(parse("a.py"), int)
    assert_type(await app.queue("ticks").put({"price": 1}), Handle[Any])
"""

WRONG = {
    'await resize.put("a.png", widht=1)': 'Unexpected keyword argument "widht"',
    'await resize.put("a.png", width="wide")': 'incompatible type "str"; expected "int"',
    "await parse.put()": 'Missing positional argument "path"',
    'await resize.options(delay=5).put("a.png")': 'Unexpected keyword argument "delay"',
    'app.blocking.handler(resize).put("a.png", widht=1)': 'Unexpected keyword argument "widht"',
    'app.blocking.handler(resize).options(sesion=1).put("a.png")': 'Unexpected keyword argument "sesion"',
    "Retry.constant(5, nevr=KeyError)": 'Unexpected keyword argument "nevr"',
    'await app.queue("ticks").put(1, prioritty=1)': 'Unexpected keyword argument "prioritty"',
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy found out about streamq and its dependencies, for the second program too."""
    return tmp_path_factory.mktemp("mypy")


def check(program: str, tmp_path: Path, cache: Path) -> str:
    file = tmp_path / "program.py"
    file.write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", f"--cache-dir={cache}", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_a_program_that_uses_the_door_rightly_is_accepted(tmp_path: Path, cache: Path) -> None:
    assert check(PROGRAM, tmp_path, cache) == ""


def test_a_wrong_put_is_refused_by_mypy_with_the_name_of_the_argument(tmp_path: Path, cache: Path) -> None:
    said = check(PROGRAM + "".join(f"    {line}\n" for line in WRONG), tmp_path, cache)
    for line, complaint in WRONG.items():
        assert complaint in said, f"{line}: {said}"
    assert said.count("error:") == len(WRONG)
