"""Many seeds on several processes: blocks are handed out in order, and what a seed comes to depends on it alone.

    parent ── block ──▶ job   plays it, seed by seed
           ◀─ report ──       which of it fail; asks for the next

When one fails, nothing behind it is begun any more; what is before it is played to its end. So the first that fails is
the same, however many jobs there are. A job ends when nobody listens to it: the parent may be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Final

from streamq.bench.actor import die_with
from tests.simulation.search import failing

BLOCK: Final = 25
"""Seeds of one hand-over: a second or two of work."""

LAST_WORDS_S: Final = 1.0
"""For a job that dies to say why."""

Block = range

Play = Callable[[Iterable[int]], Iterator[tuple[int, bool]]]
"""Plays seeds, one after the other; says of each whether it fails. A job finds it by its name."""


def cores() -> int:
    """Return how many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0))


def failures(
    seeds: Block, jobs: int, done: Callable[[int], None] = lambda count: None, *, most: int = 1, play: Play = failing
) -> list[int]:
    """Play `seeds` on `jobs` processes until `most` have failed; return those that fail, in order. The first `most` of
    them are the first of all; `done` is told how many have been played."""
    blocks = [seeds[first : first + BLOCK] for first in range(0, len(seeds), BLOCK)]
    found: list[int] = []
    played = 0

    def left() -> Iterator[Block]:
        for block in blocks:
            if len(found) >= most and sorted(found)[most - 1] < block[0]:
                return
            yield block

    waiting = left()
    with _jobs(min(jobs, len(blocks)), play) as connections:
        busy = [one for one in connections if _hand(one, waiting)]
        while busy:
            for connection in wait(busy):
                assert isinstance(connection, Connection)
                count, failed = connection.recv()
                played += count
                found += failed
                done(played)
                if not _hand(connection, waiting):
                    busy.remove(connection)
    return sorted(found)


def _hand(connection: Connection, waiting: Iterator[Block]) -> bool:
    block = next(waiting, None)
    if block is not None:
        connection.send(block)
    return block is not None


@contextmanager
def _jobs(count: int, play: Play) -> Iterator[list[Connection]]:
    """Start so many processes, which are gone at the end of the block, however that ends."""
    context = multiprocessing.get_context("spawn")
    connections: list[Connection] = []
    processes = []
    try:
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, play, os.getpid()), daemon=True)
            process.start()
            there.close()
            connections.append(here)
            processes.append(process)
        yield connections
    except (EOFError, ConnectionError):
        for process in processes:
            process.join(LAST_WORDS_S)
        raise
    finally:
        for process in processes:
            process.kill()  # it has nothing to tidy up
        for process in processes:
            process.join()


def _work(connection: Connection, play: Play, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends this one
    die_with(parent)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            block: Iterable[int] = connection.recv()
            count, failed = 0, []
            for seed, fails in play(block):
                count += 1
                if fails:
                    failed.append(seed)
            connection.send((count, failed))
