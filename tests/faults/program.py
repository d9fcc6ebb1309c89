"""The program that forks those that die (see `dying`), as a test speaks to it: who is to run what, and how it ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio

from tests.faults.commands import When
from tests.faults.dying import Death, Order, Role

CHILD_S: Final = 60.0


class Dying:
    """The program that forks those that die."""

    def __init__(self, orders: trio.abc.SendStream, deaths: trio.abc.ReceiveStream, directory: Path) -> None:
        self._to, self._from = orders, deaths
        self._turn = trio.Lock()
        self._directory = directory
        self._deaths: dict[int, trio.Event] = {}
        self._codes: dict[int, int] = {}
        self._next = 0

    async def run(
        self,
        role: Role,
        uri: str,
        database: str,
        nth: int,
        when: When = "before",
        begun: Callable[[Path], object] = lambda path: None,
        child_s: float = CHILD_S,
    ) -> tuple[int, Path]:
        """Run a script to its death, or to its end; return how it ended, and what it has written. `begun` is told at
        once where it writes."""
        self._next += 1
        number = self._next
        path = self._directory / f"{number}.log"
        begun(path)
        self._deaths[number] = trio.Event()
        order = Order(number, role, uri, database, str(path), nth, when)
        async with self._turn:
            await self._to.send_all(msgspec.json.encode(order) + b"\n")
        with trio.fail_after(child_s):
            await self._deaths[number].wait()
        return self._codes[number], path

    async def hear(self) -> None:
        """Read how they ended."""
        rest = b""
        async for data in self._from:
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                death = msgspec.json.decode(line, type=Death)
                self._codes[death.number] = death.code
                self._deaths[death.number].set()


@asynccontextmanager
async def dying(directory: Path) -> AsyncIterator[Dying]:
    """Start it."""
    command = [sys.executable, "-m", "tests.faults.dying"]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    orders, deaths = process.stdin, process.stdout
    assert orders is not None
    assert deaths is not None
    async with deaths:
        try:
            async with orders, trio.open_nursery() as nursery:
                made = Dying(orders, deaths, directory)
                nursery.start_soon(made.hear)
                yield made
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await process.wait()  # it ends with its orders
