"""The password of every user whom tests make is one that is looked for wherever a run shows something.

Looked at are: what the report of each test holds (its output, its log, the error it ended by), output that a test takes
for itself (`capsys`, `capfd`, that of programs it ran), the arguments of programs, and the files that were written.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

VARIABLE: Final = "STREAMQ_TESTS_CANARY"

CANARY: Final = os.environ.setdefault(VARIABLE, f"canary{uuid.uuid4().hex[:12]}")
"""Of one run: the processes that share it out have the same from their environment."""

PASSWORD: Final = f"@{CANARY}/:%"
"""With what must be quoted in a connection string, so that one which is not quoted is found as well."""

PASSED_OVER: Final = frozenset({".py", ".pyc", ".wt", ".turtle", ".bson"})
"""Programs that a test writes, to run them, may name the server; a server's data is not shown to anybody."""

LARGEST: Final = 10_000_000
"""Bytes of a file that is read: a server's journal is larger."""

EVERY_S: Final = 0.5


class Sightings:
    """Where the canary was seen since somebody last asked."""

    def __init__(self) -> None:
        self._seen: list[str] = []

    def look(self, where: str, text: object) -> None:
        if CANARY in (text.decode(errors="replace") if isinstance(text, bytes) else str(text)):
            self._seen.append(where)

    def take(self) -> list[str]:
        seen, self._seen = self._seen, []
        return seen


SIGHTINGS: Final = Sightings()


def look_at_report(report: pytest.TestReport) -> None:
    """Let a test fail in whose report, or in what it took for itself, the canary is."""
    for name, text in report.sections:
        if name.endswith(report.when or ""):  # what was said before stood in an earlier report
            SIGHTINGS.look(name.lower(), text)
    SIGHTINGS.look("report of its failure", report.longreprtext)
    if seen := SIGHTINGS.take():
        report.outcome = "failed"
        report.sections = [(name, text.replace(CANARY, "***")) for name, text in report.sections]
        told = report.longreprtext.replace(CANARY, "***")
        report.longrepr = f"a password was shown in: {', '.join(seen)}\n\n{told}"


def _of_arguments(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        argv = arguments[1]
        words = [argv] if isinstance(argv, str | bytes | os.PathLike) else list(argv)
        # As it is in the list of processes; a connection string hides its password where it is shown as a value.
        SIGHTINGS.look("arguments of a program", " ".join(os.fsdecode(word) for word in words))


def watch_programs() -> None:
    """Look at the arguments of each program that this process starts, until it ends."""
    sys.addaudithook(_of_arguments)


@contextmanager
def watched_captures() -> Iterator[None]:
    """Look at output that tests take before the report is made."""

    def watching(of: Any, name: str) -> Callable[..., Any]:
        take = getattr(of, name)

        def watch(self: Any, *args: Any, **options: Any) -> Any:
            taken = take(self, *args, **options)
            SIGHTINGS.look("output", taken)
            return taken

        return watch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytest.CaptureFixture, "readouterr", watching(pytest.CaptureFixture, "readouterr"))
        patch.setattr(subprocess.Popen, "communicate", watching(subprocess.Popen, "communicate"))
        yield


@contextmanager
def watched_processes(found: Path) -> Iterator[None]:
    """Look at the arguments of this process' children and theirs, twice a second, from a process of its own."""
    watcher = subprocess.Popen([sys.executable, "-m", "tests.canary", str(os.getpid()), str(found)])
    try:
        yield
    finally:
        watcher.terminate()
        watcher.wait()
        if found.exists():
            SIGHTINGS.look("arguments of a program (of its programs)", found.read_text())


def look_at_files(*directories: Path) -> None:
    """Look into what was written there: logs, data, output."""
    for directory in directories:
        for path in directory.rglob("*"):
            if path.suffix in PASSED_OVER or path.is_symlink() or not path.is_file():
                continue
            if path.stat().st_size <= LARGEST:
                SIGHTINGS.look(str(path), path.read_bytes())


def descendants(pid: int) -> Iterator[int]:
    """Yield the processes that were started by a process, and by those."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from descendants(child)


def main(of: int, found: Path) -> None:
    seen: set[int] = set()
    while True:
        for pid in descendants(of):
            try:
                said = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if CANARY.encode() in said and pid not in seen:
                seen.add(pid)
                with found.open("ab") as file:
                    file.write(said.replace(b"\0", b" ") + b"\n")
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
