"""The application: one handler, which parses one file and counts what is in it."""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from streamq import Handler, Retry, StreamQ, current_task

QUEUE: Final = "census"
DATABASE: Final = "streamq_demo"
LEASE_S: Final = 5.0
TIMEOUT_S: Final = 5.0
"""The server is on this machine: should it be gone, it will not come back."""

RETRY: Final = Retry(max_attempts=2, first_s=0.2, jitter=False)

FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS: Final = ("body", "orelse", "finalbody", "handlers", "cases")
"""Where a node keeps the statements inside it."""

PUT_AT: Final = "put-at"
"""Header: when the put was called, by CLOCK_MONOTONIC, which all processes of a machine share."""


class Module(msgspec.Struct, frozen=True):
    """What is in one file; `picked_up_s` is the time from the put's call to the handler's first line."""

    path: str
    lines: int
    classes: int
    functions: int
    picked_up_s: float


def survey(root: str, path: str) -> Module:
    """Parse one file. What cannot be parsed raises, and so fails its attempt."""
    started_at = time.monotonic()
    with open(os.path.join(root, path), "rb") as file:
        source = file.read()
    statements = list(_statements(ast.parse(source, path)))
    return Module(
        path=path,
        lines=source.count(b"\n") + (not source.endswith(b"\n") and bool(source)),
        classes=sum(isinstance(one, ast.ClassDef) for one in statements),
        functions=sum(isinstance(one, FUNCTIONS) for one in statements),
        picked_up_s=started_at - float(current_task().headers[PUT_AT]),
    )


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield all statements; not their expressions, of which there are ten times as many."""
    waiting: list[Any] = [tree]
    while waiting:
        one = waiting.pop()
        for block in BLOCKS:
            waiting += getattr(one, block, ())
        if isinstance(one, ast.stmt):
            yield one


class Census:
    """The app on one server, with its handler."""

    def __init__(self, uri: str) -> None:
        self.app = StreamQ(uri, database=DATABASE, lease_s=LEASE_S, timeout_s=TIMEOUT_S)
        self.survey: Handler[[str, str], Module, Module] = self.app.task(queue=QUEUE, retry=RETRY)(survey)

    def module_of(self, document: Any) -> Module:
        """Read a stored result as it was returned."""
        module: Module = self.survey.handling.schema.load_result(document["result"])
        return module


def now_header() -> dict[str, str]:
    """Return the header of a put that is about to be called."""
    return {PUT_AT: repr(time.monotonic())}
