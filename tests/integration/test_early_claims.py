"""Claims made by the thread that reads the stream, with real threads: their order, and what a stop leaves of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import trio
import trio.testing
from bson import ObjectId

from streamq import Retry
from streamq.bridge import NOTHING, Swift, ThreadBridge
from streamq.core.wake import Wake
from streamq.runtime.handover import STUCK_S
from tests.integration.conftest import MakeApp, Mongo
from tests.patience import eventually

SOON_S = 10.0
"""How long a step may take at most."""


class ListedFeed:
    """A feed that tells what is listed and then waits for its end."""

    def __init__(self, wakes: Sequence[Wake], began: Callable[[], None]) -> None:
        self.go = threading.Event()
        self.all_read = threading.Event()
        self.stop = threading.Event()
        self._wakes = list(wakes)
        self._began = began

    def read(self) -> Wake | None:
        """Begin when let to, so that the reader's thread runs while trio is busy."""
        self._began()
        assert self.go.wait(SOON_S)
        if self._wakes:
            return self._wakes.pop(0)
        self.all_read.set()
        assert self.stop.wait(SOON_S)
        return Wake("bell")

    def close(self) -> None:
        """Nothing to close."""


def new_wake() -> Wake:
    return Wake("ready", ObjectId(), "q", is_new=True)


async def test_no_wake_is_claimed_ahead_of_one_that_was_read_before_it_and_not_told_yet() -> None:
    """While trio is busy, wakes gather: claimed in the thread, a later put would start before an earlier one."""
    wakes = [new_wake() for _ in range(3)]
    began, token = trio.Event(), trio.lowlevel.current_trio_token()
    feed = ListedFeed(wakes, lambda: token.run_sync_soon(began.set))
    asked: list[Wake] = []
    told: list[object] = []
    heard = trio.Event()

    def swift(wake: Wake) -> None:
        asked.append(wake)

    def deliver(items: Sequence[object]) -> None:
        told.extend(items)
        heard.set()

    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ThreadBridge().follow, feed, swift, deliver, feed.stop.set)
            await began.wait()
            feed.go.set()
            assert feed.all_read.wait(SOON_S)  # trio is busy meanwhile, as with a handler that computes
            await heard.wait()
            nursery.cancel_scope.cancel()
    assert told == wakes
    assert asked == wakes[:1]


async def test_wake_that_nobody_has_to_know_of_is_not_told_and_holds_up_no_claim() -> None:
    wakes = [new_wake() for _ in range(8)]
    token = trio.lowlevel.current_trio_token()
    began, heard = trio.Event(), trio.Event()
    feed = ListedFeed(wakes, lambda: token.run_sync_soon(began.set))
    told: list[object] = []

    def deliver(items: Sequence[object]) -> None:
        told.extend(items)
        heard.set()

    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            swift: Swift = lambda wake: "claimed" if wake is wakes[-1] else NOTHING  # noqa: E731
            nursery.start_soon(ThreadBridge().follow, feed, swift, deliver, feed.stop.set)
            await began.wait()
            feed.go.set()
            await heard.wait()
            nursery.cancel_scope.cancel()
    assert told == ["claimed"]


async def test_stopped_worker_gives_back_what_a_claim_in_flight_in_the_feed_obtains(
    make_app: MakeApp, mongo: Mongo, uri: str
) -> None:
    """The server is slow for one claim, and the worker is stopped before the answer."""
    app, elsewhere = make_app(f"{uri}&appName=slowed", safety_scan_s=None), make_app()

    @app.task(retry=Retry(max_attempts=1))
    async def job() -> None: ...

    async with app, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        (intake,) = app.services().watcher._intakes
        with trio.fail_after(SOON_S):
            while not intake.takers.offer._given:  # noqa: ASYNC110
                await trio.sleep(0.01)
        slow = {"failCommands": ["findAndModify"], "blockConnection": True, "blockTimeMS": 500, "appName": "slowed"}
        point = mongo.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=slow)
        try:
            (handle,) = await elsewhere.put_many([job.new()])
            await trio.to_thread.run_sync(
                lambda: mongo.admin.command(
                    "waitForFailPoint", "failCommand", timesEntered=point["count"] + 1, maxTimeMS=10_000
                )
            )
            nursery.cancel_scope.cancel()
        finally:
            mongo.admin.command("configureFailPoint", "failCommand", mode="off")
    async with elsewhere:
        (document,) = await elsewhere.find()
    assert (document["_id"], document["status"], document["attempt"]) == (handle.id, "ready", 0)


# --- while trio stands still ------------------------------------------------------------------------------------------


async def test_loop_that_stands_still_is_claimed_for_once_at_most(
    make_app: MakeApp, database: str, mongo: Mongo
) -> None:
    """A handler that gives nobody a turn: what the feed's thread claims meanwhile would lose its attempt with its
    lease. Its wakes are told instead, and claimed when there is somebody to begin them."""
    app, producer = make_app(), make_app()
    tasks = mongo[database].tasks
    done: list[int] = []

    def claimed() -> int:
        return tasks.count_documents({"status": "running", "payload": "good"})

    def put_meanwhile() -> None:
        queue = producer.blocking.queue("q")
        queue.put("good")
        assert eventually(claimed), "the control: the thread claims"
        time.sleep(2 * STUCK_S)  # what is promised holds from then on
        for _ in range(3):
            queue.put("good")
        done.append(eventually(lambda: claimed() > 1, within_s=1.0))

    async def loop() -> None:
        async with app.queue("q").consume() as own:
            async for task in own:
                async with task:
                    if task.payload == "block":
                        await trio.testing.wait_all_tasks_blocked()  # the other slots are on offer
                        thread = threading.Thread(target=put_meanwhile)
                        thread.start()
                        thread.join()

    async with app, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(loop)
        with trio.fail_after(SOON_S):
            # By another process's puts: the echo of an own one would come after the loop stands still, and go unheard.
            for word in ("good", "block"):
                await trio.to_thread.run_sync(producer.blocking.queue("q").put, word)
                while word == "good" and tasks.count_documents({"status": {"$in": ["ready", "running"]}}):  # noqa: ASYNC110
                    await trio.sleep(0.02)
            while not done or tasks.count_documents({"status": {"$in": ["ready", "running", "delayed"]}}):  # noqa: ASYNC110
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    assert done == [False]
