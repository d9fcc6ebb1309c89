"""The history of a run: a directory of append-only logs, one a process, one event a line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from tests.chaos.event import AnyEvent, Event

SUFFIX: Final = ".jsonl"

TAIL_BYTES: Final = 1 << 18
"""Some hundreds of events."""

_decoder: Final = msgspec.json.Decoder(AnyEvent)
_encoder: Final = msgspec.json.Encoder()


class Pen:
    """Writes the log of one process. Any thread may use it: an event is one write, so that a kill leaves whole lines
    (or cuts the last one, which had nothing to say yet)."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, event: Event) -> None:
        """Append one event."""
        os.write(self._descriptor, _encoder.encode(event) + b"\n")

    def close(self) -> None:
        """Write no more."""
        os.close(self._descriptor)


def read(directory: Path) -> list[AnyEvent]:
    """Read all logs of a run; what stands in one log stays in its order."""
    return [event for path in sorted(directory.glob("*" + SUFFIX)) for event in events(path.read_bytes())]


def events(log: bytes) -> Iterator[AnyEvent]:
    """Read one log. A line without its end is of a process that was killed as it wrote it."""
    lines = log.split(b"\n")
    for line in lines[:-1]:
        yield _decoder.decode(line)


def tail(log: Path) -> list[AnyEvent]:
    """Read the latest of one log; nothing when its process has yet to begin it."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL_BYTES))
        whole_lines = file.read() if size <= TAIL_BYTES else file.read().partition(b"\n")[2]
    return list(events(whole_lines))


def in_time(history: Iterable[AnyEvent]) -> list[AnyEvent]:
    """Order events of several logs by their instants."""
    return sorted(history, key=lambda event: event.at)
