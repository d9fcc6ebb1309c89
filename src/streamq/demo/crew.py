"""The worker processes as the main process sees them: started, told where the server is, stopped, never left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

STOP_S: Final = 10.0
"""How long a worker may take to stop in good order: it waits for the files in hand."""


class Crew:
    """The workers; `lost` is called when one ended that was not told to."""

    def __init__(self, processes: list[trio.Process], lost: Callable[[int], None]) -> None:
        self._processes = processes
        self._lost = lost
        self._told_to_stop = False

    async def begin(self, uri: str) -> None:
        """Tell all where the server is and wait until all are ready for tasks (or have ended)."""
        async with trio.open_nursery() as nursery:
            for process in self._processes:
                await _tell(process, uri)
                nursery.start_soon(_wait_ready, process)

    async def watch(self) -> None:
        """Wait until all have ended, saying so of each."""
        async with trio.open_nursery() as nursery:
            for process in self._processes:
                nursery.start_soon(self._watch_one, process)

    async def _watch_one(self, process: trio.Process) -> None:
        code = await process.wait()
        if not self._told_to_stop:
            self._lost(code)

    async def stop(self) -> None:
        """Stop all in good order, or by force when that takes too long. Cancellation: shielded."""
        self._told_to_stop = True
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for process in self._processes:
                    nursery.start_soon(_stop_one, process)


@asynccontextmanager
async def hired(size: int, lost: Callable[[int], None]) -> AsyncIterator[Crew]:
    """Start `size` workers; on leaving the block they have ended."""
    processes: list[trio.Process] = []
    crew = Crew(processes, lost)
    try:
        for _ in range(size):
            with trio.CancelScope(shield=True):  # a process that was started must not get lost
                processes.append(await _start())
        yield crew
    finally:
        await crew.stop()


async def _start() -> trio.Process:
    # A session of its own: Ctrl-C goes to the main process only, which then stops its workers in good order.
    return await trio.lowlevel.open_process(
        [sys.executable, "-m", "streamq.demo.crewman"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


async def _tell(process: trio.Process, line: str) -> None:
    assert process.stdin is not None
    try:
        await process.stdin.send_all(line.encode() + b"\n")
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # it has ended: `watch` says so


async def _wait_ready(process: trio.Process) -> None:
    assert process.stdout is not None
    await process.stdout.receive_some()  # "ready", or nothing when it has ended


async def _stop_one(process: trio.Process) -> None:
    with trio.move_on_after(STOP_S):
        await _tell(process, "stop")
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            await pipe.aclose()
