"""Every example runs as it stands and prints what it says it does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.access import Access
from tests.integration.logged import without_failed_tasks

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _fresh(access: Access) -> Iterator[None]:
    """Each starts from an empty database: the examples share one."""
    with access.lend("examples"):
        yield


def run(name: str, uri: str | None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "STREAMQ_URI"}
    if uri is not None:
        environment["STREAMQ_URI"] = uri
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        env=environment,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, without_failed_tasks(done.stderr)) == (0, "")
    return done.stdout


def test_every_example_is_tested() -> None:
    here = Path(__file__).read_text()
    assert [one.name for one in sorted(EXAMPLES.glob("*.py")) if f'"{one.name}"' not in here] == []


def test_hello(uri: str) -> None:
    assert run("hello.py", uri) == "Good evening, world!\n"


def test_hello_without_a_server_brings_its_own() -> None:
    assert run("hello.py", None) == "Good evening, world!\n"


def test_delayed(uri: str) -> None:
    out = run("delayed.py", uri)
    started = {dish: float(after_s) for dish, after_s in re.findall(r"(\w+): started after ([\d.]+) s", out)}
    assert list(started) == ["salad", "tart", "stew"]
    assert started["tart"] >= 0.5
    assert started["stew"] >= 1.0
    assert out.endswith("oven: lit at attempt 3\nguest: served at attempt 1\n")


def test_consume(uri: str) -> None:
    assert run("consume.py", uri).splitlines() == [
        *(f"attempt 1: {price}" for price in ("101.5", "102.0", "?", "99.5")),
        "{'succeeded': 3, 'failed': 1}",
    ]


def test_embed(uri: str) -> None:
    assert run("embed.py", uri).splitlines() == [
        "1 2 3 -> 6",
        "0.5 0.25 -> 0.75",
        "one two -> error: could not convert string to float: b'one'",
    ]


def test_sync_put(uri: str) -> None:
    assert run("sync_put.py", uri).splitlines() == [
        "refused: order 2 costs nothing",
        "orders: [1, 3]",
        "mail for order 1",
        "mail for order 3",
    ]


def test_recurring_now_and_again(uri: str) -> None:
    for _ in range(2):
        assert run("recurring.py", uri).splitlines() == [
            "now: 1 day, slot None",
            "beat 1",
            "beat 2",
            "beat: every 1000 ms, off",
            "report: cron 30 2 * * * Europe/Berlin, on",
        ]


def test_asyncio_program(uri: str) -> None:
    assert run("asyncio_program.py", uri) == "[0, 1, 4, 9]\n"


def test_encrypted(uri: str) -> None:
    assert run("encrypted.py", uri) == "charged 995 to 0002\n"


def test_encrypted_without_a_server_brings_its_own() -> None:
    assert run("encrypted.py", None) == "charged 995 to 0002\n"
