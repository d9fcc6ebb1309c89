"""No wake is lost: around a worker's start, while its stream is opened anew, whatever ends the stream."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
import trio
from bson import ObjectId
from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from pymongo.write_concern import WriteConcern

from streamq import AccessRefused, StreamQ
from streamq.core.member import Member, Roster
from streamq.core.new_task import NewTask
from streamq.core.options import Options
from streamq.core.wakes import Interest
from streamq.store.feed import MOST_EVENTS
from streamq.store.mongo import MongoStore
from tests.databases import rename
from tests.integration.conftest import MakeApp, Mongo
from tests.integration.echo import echoing
from tests.long_form import sized

SOON_S: Final = 10.0
"""How soon a put must have been run after its stream was disturbed. The pause before the first reopening is 0.1 s;
after an error that says the server is going away, the driver waits up to a heartbeat (5 s) to see that it has not."""


AFTER_S: Final = sized(SOON_S, 3.0)
"""The same after an error, from when the put was acknowledged; the short form is run beside other tests."""

HOLES: Final = sized(5, 500)
STARTS: Final = sized(300, 50_000)
ERRORS: Final = sized(1, 100)
"""Of each kind."""


@contextmanager
def fail_point(mongo: Mongo, name: str, **data: Any) -> Iterator[Callable[[int], None]]:
    """Hold a fail point of the server for the body of the block; yield what waits until it was come to so often.

    The server counts from its own start, hence the count before: while nothing comes to it, as what comes while it is
    being set may be in the answer.
    """
    mode = data.pop("mode", "alwaysOn")
    before = mongo.admin.command("configureFailPoint", name, mode="off")["count"]
    mongo.admin.command("configureFailPoint", name, mode=mode, data=data)

    def wait(times: int) -> None:
        mongo.admin.command("waitForFailPoint", name, timesEntered=before + times, maxTimeMS=10_000)

    try:
        yield wait
    finally:
        mongo.admin.command("configureFailPoint", name, mode="off")


# --- around the start ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "barrier", [*[True] * HOLES, False], ids=[*["with the barrier"] * HOLES, "control: without it"]
)
async def test_put_in_an_oplog_hole_while_a_worker_starts_is_run_thanks_to_the_barrier(
    make_app: MakeApp, mongo: Mongo, database: str, monkeypatch: pytest.MonkeyPatch, barrier: bool
) -> None:
    """W has an earlier timestamp than the stream's start and commits after the scan: the stream does not tell it and
    the scan does not see it. The barrier waits until W has committed.

    The control takes the barrier out and must miss W, or the hole was none.
    """
    here, elsewhere = make_app(safety_scan_s=None), make_app()
    echo = echoing(here)
    started, opened = trio.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()
    feed = here.store.feed

    def watched_feed(*args: Any) -> Any:
        try:
            return feed(*args)
        finally:
            token.run_sync_soon(opened.set)

    def no_barrier(member: Member) -> Roster:
        return Roster(0, member.lease_s)

    async def work(app: StreamQ) -> None:
        await nursery.start(app.work)
        started.set()

    hole, after = echo.new("in the hole"), echo.new("after it")
    async with here, elsewhere, trio.open_nursery() as nursery:
        monkeypatch.setattr(here.store, "feed", watched_feed)
        if not barrier:
            monkeypatch.setattr(here.store, "beat", no_barrier)
        # Only inserts of tasks are held: a member's row has a string for its id. (The fail point compares ids as
        # strings, and an ObjectId is the empty one to it.)
        with fail_point(mongo, "hangAfterCollectionInserts", collectionNS=f"{database}.tasks", first_id="") as wait:
            nursery.start_soon(elsewhere.put_many, [hole])
            await trio.to_thread.run_sync(wait, 1)
            mongo[database].get_collection("other", write_concern=WriteConcern(w=1)).insert_one({"later": "committed"})
            nursery.start_soon(work, here)
            await opened.wait()
            if barrier:
                with trio.move_on_after(0.5):
                    await started.wait()
                assert not started.is_set(), "the barrier waits for the hole to close"
            else:
                await started.wait()
                with trio.fail_after(SOON_S):  # the scan must be over before the hole closes, or it would see it
                    while not here.journal.counts["claim calls"]:  # noqa: ASYNC110
                        await trio.sleep(0.01)
        with trio.fail_after(SOON_S):
            await started.wait()
        await elsewhere.put_many([after])
        # Asked elsewhere, and not by `result()`: that would open the stream anew and scan.
        await _succeeded(elsewhere, after.id)
        if barrier:
            await _succeeded(elsewhere, hole.id)
        else:
            assert await elsewhere.handle(hole.id).status() == "ready", "missed: nothing will ever tell of it"
        nursery.cancel_scope.cancel()


async def test_hundreds_of_starts_miss_no_put_around_them(make_app: MakeApp) -> None:
    """Puts at random offsets from 0 to 50 ms around the start, the safety scan off. Each start is on a queue of its
    own, so that each opens a stream of its own and no later one can find what an earlier one missed."""
    here, elsewhere = make_app(safety_scan_s=None), make_app()
    chance = random.Random(20_261_122)
    missed: list[str] = []

    async def start(queue: str, wait_s: float) -> None:
        await trio.sleep(wait_s)
        async with here.queue(queue).consume() as tasks:
            with trio.move_on_after(2):
                async for task in tasks:
                    await task.succeed()
                    return
        missed.append(queue)

    async def put(queue: str, wait_s: float) -> None:
        await trio.sleep(wait_s)
        await elsewhere.queue(queue).put(1, keep_s=0)

    async with here, elsewhere:
        for number in range(STARTS):
            if len(missed) > 2:
                break
            async with trio.open_nursery() as nursery:
                nursery.start_soon(start, f"q{number}", chance.uniform(0, 0.025))
                nursery.start_soon(put, f"q{number}", chance.uniform(0, 0.050))
    assert missed == []


async def test_wider_stream_opened_for_a_second_worker_misses_no_put_for_the_first(make_app: MakeApp) -> None:
    here, elsewhere = make_app(safety_scan_s=None), make_app()
    ran: list[Any] = []

    async def consume(queue: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with here.queue(queue).consume(prefetch=8) as tasks:
            task_status.started()
            async for task in tasks:
                ran.append(task.payload)
                await task.succeed()

    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(consume, "first")
        for number in range(40):
            nursery.start_soon(consume, f"other {number}".replace(" ", "-"))
            await elsewhere.queue("first").put(number)
        with trio.fail_after(SOON_S):
            while len(ran) < 40:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert sorted(ran) == list(range(40))


async def test_consumer_started_before_the_collection_exists_hears_the_first_put(
    make_app: MakeApp, mongo: Mongo, database: str
) -> None:
    here, elsewhere = make_app(safety_scan_s=None), make_app()
    async with here, elsewhere:
        mongo[database].drop_collection("tasks")
        async with here.queue("q").consume() as tasks:
            await elsewhere.queue("q").put("first")
            with trio.fail_after(SOON_S):
                async for task in tasks:
                    assert task.payload == "first"
                    await task.succeed()
                    break


# --- what ends a stream ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["drop", "rename", "drop database"])
async def test_stream_whose_collection_goes_is_opened_again(
    make_app: MakeApp, mongo: Mongo, database: str, how: str
) -> None:
    here, elsewhere = make_app(safety_scan_s=None), make_app()
    echo = echoing(here)
    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        for turn in range(max(3, ERRORS)):
            match how:
                case "drop":
                    mongo[database].tasks.drop()
                case "rename":
                    rename(mongo[database].tasks, f"old_{turn}")
                case _:
                    mongo.drop_database(database)
            (handle,) = await elsewhere.put_many([echo.new(f"after {how} {turn}")])
            await _succeeded(elsewhere, handle.id)
        assert here.journal.counts["stream lost, trying again"] >= 1
        nursery.cancel_scope.cancel()


async def _waiting(mongo: Mongo, database: str) -> None:
    """Return once somebody's stream is open: then its process has a row."""
    with trio.fail_after(SOON_S):
        while not mongo[database].tasks.count_documents({"kind": "member"}):  # noqa: ASYNC110
            await trio.sleep(0.02)


@pytest.mark.parametrize("door", ["trio", "blocking"])
async def test_claim_that_waits_gets_what_is_put_after_its_collection_was_dropped(
    make_app: MakeApp, mongo: Mongo, database: str, door: str
) -> None:
    here, elsewhere = make_app(safety_scan_s=None), make_app()
    got: list[Any] = []

    async def claim() -> None:
        if door == "trio":
            task = await here.queue("q").claim(wait_s=SOON_S)
            assert task is not None
            await task.succeed()
            got.append(task.payload)
        else:
            held = await trio.to_thread.run_sync(lambda: here.blocking.queue("q").claim(wait_s=SOON_S))
            assert held is not None
            held.succeed()
            got.append(held.payload)

    async with here, elsewhere, trio.open_nursery() as nursery:
        nursery.start_soon(claim)
        await _waiting(mongo, database)
        mongo[database].tasks.drop()
        await elsewhere.queue("q").put("after")
    assert got == ["after"]


async def _succeeded(app: StreamQ, id: Any, within_s: float = SOON_S) -> None:
    """Return once the task has succeeded, without leaning on the stream under test."""
    with trio.fail_after(within_s):
        while await app.handle(id).status() != "succeeded":  # noqa: ASYNC110
            await trio.sleep(0.02)


@pytest.mark.parametrize("code", [43, 50, 136, 280, 286, 10_334, 11_600, 11_601, "closeConnection"] * ERRORS)
async def test_put_after_an_error_of_the_stream_is_run_soon(
    make_app: MakeApp, mongo: Mongo, uri: str, code: int | str
) -> None:
    """The error is given to this worker's client alone, and to the read that follows the next event."""
    here, elsewhere = make_app(f"{uri}&appName=disturbed", safety_scan_s=None), make_app()
    echo = echoing(here)
    how = {"closeConnection": True} if code == "closeConnection" else {"errorCode": code}
    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        with fail_point(
            mongo, "failCommand", mode={"times": 1}, failCommands=["getMore"], appName="disturbed", **how
        ) as wait:
            (first,) = await elsewhere.put_many([echo.new("first")])
            await _succeeded(elsewhere, first.id)
            await trio.to_thread.run_sync(wait, 1)
            (second,) = await elsewhere.put_many([echo.new("second")])
            await _succeeded(elsewhere, second.id, AFTER_S)
        nursery.cancel_scope.cancel()


async def test_stream_that_cannot_be_opened_for_a_while_is_opened_in_the_end(
    make_app: MakeApp, mongo: Mongo, uri: str
) -> None:
    here, elsewhere = make_app(f"{uri}&appName=disturbed&retryReads=false", safety_scan_s=None), make_app()
    echo = echoing(here)
    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        with fail_point(
            mongo,
            "failCommand",
            mode={"times": 4},
            failCommands=["getMore", "aggregate"],
            appName="disturbed",
            errorCode=11_601,
        ) as wait:
            (first,) = await elsewhere.put_many([echo.new("first")])
            await trio.to_thread.run_sync(wait, 4)
            (second,) = await elsewhere.put_many([echo.new("second")])
            await _succeeded(elsewhere, first.id)
            await _succeeded(elsewhere, second.id)
        nursery.cancel_scope.cancel()


async def test_stream_that_is_refused_while_workers_run_fails_loudly(make_app: MakeApp, mongo: Mongo, uri: str) -> None:
    """A right was taken away: trying again cannot help, and a silent worker would be worse than a dead one."""
    here, elsewhere = make_app(f"{uri}&appName=disturbed", safety_scan_s=None), make_app()
    echo = echoing(here)

    async def work() -> None:
        async with here, trio.open_nursery() as nursery:
            await nursery.start(here.work)
            await elsewhere.put_many([echo.new("first")])
            await trio.sleep(SOON_S)

    async with elsewhere:
        with (
            fail_point(mongo, "failCommand", failCommands=["getMore"], appName="disturbed", errorCode=13),
            pytest.raises(AccessRefused, match="change stream"),
        ):
            await work()


class Replies(CommandListener):
    """How many events each reply of a stream held."""

    def __init__(self) -> None:
        self.events: list[int] = []

    def started(self, event: CommandStartedEvent) -> None:
        """See `CommandListener`."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """See `CommandListener`."""
        if event.command_name == "getMore":
            self.events.append(len(event.reply["cursor"]["nextBatch"]))

    def failed(self, event: CommandFailedEvent) -> None:
        """See `CommandListener`."""


def test_stream_that_is_far_behind_is_read_in_small_replies(uri: str, database: str) -> None:
    """One of 16 MB, which is the server's own bound, would be 100 MB of dicts, made while nothing else runs."""
    replies, count = Replies(), 3 * MOST_EVENTS
    client: Mongo = MongoClient(uri, event_listeners=[replies])
    store = MongoStore(client, database, owns_client=True)
    feed = store.feed(Interest(("q",), timers=False, reply_to=None, bell="b"), await_s=0.1)
    store.put([NewTask(ObjectId(), "q", None, None, Options(), 1) for _ in range(count)])
    told = 0
    while told < count:
        told += feed.read() is not None
    feed.close()
    store.close()
    assert max(replies.events) <= MOST_EVENTS
