"""The job: start a server and workers, put a task for each file, wait until all have ended, read what came of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio
from bson import ObjectId

from streamq import TaskFailed, embedded
from streamq.core.document import TERMINAL
from streamq.demo.census import QUEUE, Census, now_header
from streamq.demo.crew import Crew, hired
from streamq.demo.plan import Plan, plan_of
from streamq.demo.screen import Screen
from streamq.demo.tally import Put, Tally, tally_of
from streamq.demo.tree import File, Tree

WORKERS: Final = 2
CHUNK: Final = 200
LOOK_S: Final = 0.2
"""How often the counts are asked for. For the eye only: what works on tasks is woken by the change stream."""
STALL_S: Final = 60.0
"""Nothing has moved for so long: something is broken, and waiting on would hide it."""


class DemoFailed(Exception):
    """The job could not be brought to its end."""


async def job(tree: Tree, screen: Screen) -> Tally:
    """Do the whole job and return what came of it. Cancellation: whatever was started is stopped first."""
    alive = WORKERS

    def lost(code: int) -> None:
        nonlocal alive
        alive -= 1
        heirs = f"{alive} left, its tasks go there when its lease ends" if alive else "none left"
        screen.say(f"A worker ended by itself ({_how(code)}): {heirs}.")

    started_at = time.monotonic()
    async with hired(WORKERS, lost) as crew, running_server() as server:
        census = Census(server.uri)
        try:
            async with census.app, trio.open_nursery() as nursery:
                await crew.begin(server.uri)
                screen.say(f"A MongoDB and {WORKERS} worker processes are up after {_since(started_at)}.")
                nursery.start_soon(_fail_without, crew)
                tally = await _put_and_wait(census, tree, screen)
                nursery.cancel_scope.cancel()
        finally:
            await crew.stop()  # before the server: they give back what they hold
            census.app.close()
    return tally


@asynccontextmanager
async def running_server() -> AsyncIterator[embedded.EmbeddedServer]:
    """Run an embedded server for the body of the block. Cancellation: acted upon once it is up, then it is stopped."""
    server = await trio.to_thread.run_sync(embedded.start)
    try:
        yield server
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(server.stop)


async def _fail_without(crew: Crew) -> None:
    await crew.watch()
    raise DemoFailed("all workers have ended: nobody is left to do the work")


async def _put_and_wait(census: Census, tree: Tree, screen: Screen) -> Tally:
    plan = plan_of(tree)
    puts: dict[ObjectId, Put] = {}
    async with trio.open_nursery() as nursery:
        with screen.live(len(tree.files)):
            nursery.start_soon(_follow, census, screen, len(tree.files), nursery.cancel_scope)
            await _put_singly(census, tree.root, plan.singly, puts)
            screen.say(f"{len(plan.singly)} tasks put one at a time, each when the one before had ended.")
            bulk_at = time.monotonic()
            await _put_in_bulk(census, tree.root, plan, puts)
            screen.say(
                f"{len(plan.delayed)} tasks put with a delay, {len(plan.at_once)} in chunks of {CHUNK}, "
                f"in {_since(bulk_at)}."
            )
            await trio.sleep_forever()  # until `_follow` has seen all end
    ended_at = time.monotonic()
    return await tally_of(census, puts, bulk_s=ended_at - bulk_at)


async def _put_singly(census: Census, root: str, files: tuple[File, ...], puts: dict[ObjectId, Put]) -> None:
    for file in files:
        called_at = time.monotonic()
        handle = await census.survey.options(headers=now_header()).put(root, file.path)
        try:
            await handle.result()
            answer_s = time.monotonic() - called_at
        except TaskFailed:
            answer_s = None  # after a retry: not what is measured here
        puts[handle.id] = Put(file.path, "singly", answer_s=answer_s)


async def _put_in_bulk(census: Census, root: str, plan: Plan, puts: dict[ObjectId, Put]) -> None:
    for file, delay_s in plan.delayed:
        delayed = census.survey.options(headers=now_header(), delay_s=delay_s, priority=9)
        handle = await delayed.put(root, file.path)
        puts[handle.id] = Put(file.path, "delayed", delay_s=delay_s)
    for first in range(0, len(plan.at_once), CHUNK):
        chunk = plan.at_once[first : first + CHUNK]
        now = census.survey.options(headers=now_header())
        handles = await census.app.put_many(now.new(root, file.path) for file in chunk)
        for file, handle in zip(chunk, handles, strict=True):
            puts[handle.id] = Put(file.path, "bulk")


async def _follow(census: Census, screen: Screen, expected: int, until: trio.CancelScope) -> None:
    """Show the counts until as many tasks have ended as were to be put."""
    seen: object = None
    moved_at = time.monotonic()
    while True:
        counts = (await census.app.counts()).get(QUEUE, {})
        screen.show(counts)
        if sum(counts.get(status, 0) for status in TERMINAL) >= expected:
            until.cancel()
            return
        if counts != seen:
            seen, moved_at = counts, time.monotonic()
        elif time.monotonic() - moved_at > STALL_S:
            raise DemoFailed(f"nothing has moved for {STALL_S:g} s: {dict(counts)}")
        await trio.sleep(LOOK_S)


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _since(at: float) -> str:
    return f"{time.monotonic() - at:.1f} s"
