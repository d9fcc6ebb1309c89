"""The change stream dies while it is opened again, hangs, falls behind the oplog, meets what is too large for an event.

What ends an open stream once is in tests/integration/test_stream.py, a collection that goes in test_dropped.py. The
safety scan is off: what is not told is never found.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import trio
from bson import ObjectId
from pymongo import MongoClient
from pymongo.change_stream import ChangeStream
from pymongo.errors import OperationFailure
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from streamq import StreamQ, embedded
from streamq.embedded import EmbeddedServer
from streamq.errors import FeedEnded
from streamq.store import feed, wake_channel
from streamq.store.feed import MongoFeed
from tests.databases import Mongo
from tests.faults.fault import DEFAULTS, Striking, Turn
from tests.faults.script import lines
from tests.integration.conftest import MakeApp
from tests.integration.echo import echoing
from tests.long_form import sized
from tests.patience import freeze
from tests.proxy import Proxy
from tests.wire import Message

SOON_S: Final = 15.0
"""How soon a put must have been run after whatever happened to the stream. It takes a second at most: the pauses before
a reopening are 0, 0.1, 0.2 s, …; the rest is for a machine that is busy with other tests."""

FAT_BYTES: Final = 8_500_000

HOW: Final[dict[str, dict[str, Any]]] = {
    str(code): {"errorCode": code} for code in (43, 50, 136, 280, 286, 10_334, 11_600, 11_601)
} | {"closeConnection": {"closeConnection": True}}


async def ends(app: StreamQ, id: Any, within_s: float = SOON_S) -> bool:
    """Wait for the end of a task without leaning on the stream under test; say whether it came."""
    with trio.move_on_after(within_s):
        while await app.handle(id).status() != "succeeded":  # noqa: ASYNC110
            await trio.sleep(0.02)
        return True
    return False


# --- it dies, and dies again while it is opened ---------------------------------------------------------------------


class Openings(Striking):
    """Ends a client's stream once, and lets the next opening fail."""

    def __init__(self, app: str, how: dict[str, Any], turn: Turn) -> None:
        super().__init__(app, turn)
        self.refused = 0
        self._how = how
        self._ended = threading.Event()

    def end(self) -> None:
        """From the next read on."""
        self._ended.set()

    def started(self, event: CommandStartedEvent) -> None:
        """See `CommandListener`."""
        if not self._ended.is_set() or self.refused > 1:
            return
        if event.command_name == "getMore" and not self.refused:
            self._fail(event, {"errorCode": 286})
        elif event.command_name == "aggregate" and "$changeStream" in event.command["pipeline"][0]:
            self._fail(event, self._how)

    def _fail(self, event: CommandStartedEvent, how: dict[str, Any]) -> None:
        self.refused += 1
        self.strike(event, how)


async def test_put_is_run_after_any_error_at_the_reopening_of_a_stream(uri: str, database: str, mongo: Mongo) -> None:
    """All errors at a time, each for a worker with a client and a queue of its own."""
    turn = Turn(mongo)
    bad: list[str] = []

    async def case(name: str) -> None:
        openings = Openings(f"opening-{name}", HOW[name], turn)
        options = DEFAULTS | {"appname": f"opening-{name}", "event_listeners": [openings]}
        with Mongo(uri, tz_aware=True, **options) as client:
            here = StreamQ(client=client, database=database, safety_scan_s=None)
            ids = []
            async with here, trio.open_nursery() as nursery:

                @here.task(queue=f"queue-{name}", name=f"echo-{name}")
                async def echo(text: str) -> str:
                    return text

                await nursery.start(here.work)
                openings.end()
                for text in ("that is told of by the stream that ends", "after it"):
                    handles = await elsewhere.put_many([echo.new(text)])
                    ids.append(handles[0].id)
                    if not await ends(elsewhere, ids[-1]):
                        bad.append(f"{name}: not run: {text}")
                nursery.cancel_scope.cancel()
            if openings.refused != 2:
                bad.append(f"{name}: failed {openings.refused} times")

    elsewhere = StreamQ(uri, database=database)
    async with elsewhere, trio.open_nursery() as nursery:
        for name in HOW:
            nursery.start_soon(case, name)
    assert not bad


class Unnoticed(MongoFeed):
    """Control: it does not look whether its stream is alive."""

    def read(self) -> Any:
        try:
            return super().read()
        except FeedEnded:
            return None


@pytest.mark.parametrize("looks", [True, False], ids=["looks", "control: does not look"])
async def test_stream_that_ends_without_a_word_is_noticed_because_it_is_asked_whether_it_lives(
    make_app: MakeApp, mongo: Mongo, database: str, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    """A filtered stream says nothing when its collection goes. The control must miss what is put then."""
    here, elsewhere = make_app(safety_scan_s=None), make_app()
    echo = echoing(here)
    async with here, elsewhere, trio.open_nursery() as nursery:
        if not looks:
            tasks = here.store._tasks.committed  # type: ignore[attr-defined]
            monkeypatch.setattr(here.store, "feed", lambda interest: Unnoticed(tasks, interest, 0.1, 10.0))
        await nursery.start(here.work)
        mongo[database].tasks.drop()
        (handle,) = await elsewhere.put_many([echo.new("after")])
        assert await ends(elsewhere, handle.id, SOON_S if looks else 1.5) is looks
        nursery.cancel_scope.cancel()


class Counting(CommandListener):
    """Counts the streams that a client opens."""

    def __init__(self) -> None:
        self.opened = 0

    def started(self, event: CommandStartedEvent) -> None:
        """See `CommandListener`."""
        if event.command_name == "aggregate" and "$changeStream" in next(iter(event.command["pipeline"]), {}):
            self.opened += 1

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """See `CommandListener`."""

    def failed(self, event: CommandFailedEvent) -> None:
        """See `CommandListener`."""


ILL_S: Final = 3.0
REOPENED: Final = 8
"""How often one may be opened again in that time: the pauses before are 0, 0.1, 0.2, 0.4, 0.8, … s, or half of that."""


async def claim(app: StreamQ) -> None:
    """Wait for a task in a thread."""
    task = await trio.to_thread.run_sync(partial(app.blocking.queue("default").claim, wait_s=2 * SOON_S))
    assert task is not None
    await trio.to_thread.run_sync(task.succeed)


@pytest.mark.parametrize("waits", [claim, StreamQ.work], ids=["a claimer", "a worker"])
async def test_stream_that_ends_at_each_read_is_opened_less_and_less_often(
    uri: str, database: str, mongo: Mongo, waits: Callable[[StreamQ], Awaitable[None]]
) -> None:
    """The server answers all else at once: nothing but a pause of the reader's own keeps it from a storm."""
    counting, ill = Counting(), {"failCommands": ["getMore"], "appName": "ends", "errorCode": 286}
    options: dict[str, Any] = DEFAULTS | {"appname": "ends", "event_listeners": [counting]}
    with Mongo(uri, tz_aware=True, **options) as client:
        app = StreamQ(client=client, database=database, safety_scan_s=None)
        handler = app.task(queue="default", name="nothing")(nothing)
        async with app, trio.open_nursery() as nursery:
            await trio.to_thread.run_sync(app.blocking.store)
            mongo.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=ill)
            try:
                nursery.start_soon(waits, app)
                await trio.sleep(ILL_S)
                opened = counting.opened
            finally:
                mongo.admin.command("configureFailPoint", "failCommand", mode="off")
            (handle,) = await app.put_many([handler.new()])
            assert await ends(app, handle.id)
            nursery.cancel_scope.cancel()
    assert 2 < opened <= 1 + REOPENED


async def nothing() -> None: ...


# --- it hangs -------------------------------------------------------------------------------------------------------


def impatient(room: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what reads there ask again every 0.3 s, and give up a reply that is 0.5 s late."""
    monkeypatch.setattr(room, "AWAIT_MS", 300)
    monkeypatch.setattr(room, "HUNG_S", 0.5)


async def test_stream_whose_reply_never_comes_is_given_up_and_opened_anew(
    server: EmbeddedServer, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection stays open and nothing comes: what was put meanwhile is found, and the app can be left."""
    impatient(feed, monkeypatch)
    with Proxy(server.nodes[0].port) as proxy:
        here, elsewhere = make_app(proxy.uri, safety_scan_s=None), make_app()
        echo = echoing(here)
        with trio.fail_after(3 * SOON_S):
            async with here, elsewhere, trio.open_nursery() as nursery:
                await nursery.start(here.work)
                trap = proxy.trap("getMore", then="swallow reply")
                for text in ("in the reply that is lost", "after it"):
                    (handle,) = await elsewhere.put_many([echo.new(text)])
                    assert await ends(elsewhere, handle.id), text
                assert trap.sprung.is_set()
                nursery.cancel_scope.cancel()


async def opened(app: StreamQ, times: int) -> None:
    """Wait until the wake channel was opened so often."""
    with trio.fail_after(SOON_S):
        while app.journal.counts["wake channel open"] < times:  # noqa: ASYNC110
            await trio.sleep(0.02)


def reads_the_wake_channel(message: Message) -> bool:
    return bool(message.body().get("collection") == "tasks.wakes")


async def test_wake_channel_whose_reply_never_comes_is_given_up_and_opened_anew(
    server: EmbeddedServer, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream tells meanwhile; what is quiet for longer than a reply may be late is not given up."""
    impatient(wake_channel, monkeypatch)
    with Proxy(server.nodes[0].port) as proxy:
        here = make_app(proxy.uri, wake="tailable", safety_scan_s=None)
        echo = echoing(here)
        async with here, trio.open_nursery() as nursery:
            await nursery.start(here.work)
            await opened(here, 1)
            quiet = proxy.trap("getMore", nth=4, then="swallow reply", if_=reads_the_wake_channel)
            assert await trio.to_thread.run_sync(quiet.sprung.wait, SOON_S)
            assert here.journal.counts["wake channel lost, trying again"] == 0
            await opened(here, 2)
            assert here.journal.counts["stream lost, trying again"] == 0
            (handle,) = await here.put_many([echo.new("after it")])
            assert await ends(here, handle.id)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("room", "wake", "channels", "is_meant"),
    [(feed, "stream", 0, lambda message: True), (wake_channel, "tailable", 1, reads_the_wake_channel)],
    ids=["stream", "wake channel"],
)
async def test_app_is_left_though_a_reply_that_it_waits_for_never_comes(
    server: EmbeddedServer,
    make_app: MakeApp,
    monkeypatch: pytest.MonkeyPatch,
    room: ModuleType,
    wake: str,
    channels: int,
    is_meant: Callable[[Message], bool],
) -> None:
    impatient(room, monkeypatch)
    with Proxy(server.nodes[0].port) as proxy:
        here = make_app(proxy.uri, wake=wake, safety_scan_s=None)
        echoing(here)
        with trio.fail_after(SOON_S):
            async with here, trio.open_nursery() as nursery:
                await nursery.start(here.work)
                await opened(here, channels)
                trap = proxy.trap("getMore", then="swallow reply", if_=is_meant)
                await trio.to_thread.run_sync(trap.sprung.wait)
                nursery.cancel_scope.cancel()


# --- its events are large --------------------------------------------------------------------------------------------


async def test_event_that_is_larger_than_an_event_can_be_ends_no_stream_of_workers(
    make_app: MakeApp, mongo: Mongo, database: str
) -> None:
    """A large payload and a large result: the event of the settlement would be of more than 16 MB for a stream that
    looks the document up, as the control does; ours asks for ids."""
    options: dict[str, Any] = {"safety_scan_s": None, "payload_limit_bytes": FAT_BYTES}
    here, elsewhere = make_app(**options), make_app(**options)

    @here.task
    async def fat(text: str) -> bytes:
        return bytes(len(text) - 100)

    lookup = mongo[database].tasks.watch(full_document="updateLookup", max_await_time_ms=100)
    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        for text in ("x" * (FAT_BYTES - 500_000), "y" * 200):
            (handle,) = await elsewhere.put_many([fat.new(text)])
            assert await ends(elsewhere, handle.id)
        nursery.cancel_scope.cancel()
    assert here.journal.counts["stream lost, trying again"] == 0
    assert died_of(lookup) == 10_334


def died_of(stream: ChangeStream[dict[str, Any]]) -> int | None:
    """Read a stream to its end."""
    with stream:
        try:
            while stream.alive:
                stream.try_next()
        except OperationFailure as error:
            return error.code
    return None


# --- it falls behind the oplog ---------------------------------------------------------------------------------------


FILLED_AT_ONCE: Final = 20
FILLER_BYTES: Final = 200_000


@contextmanager
def forgetful(directory: Path) -> Iterator[EmbeddedServer]:
    """Run a server that keeps next to nothing of its past."""
    with embedded.start(directory, extra_args=["--oplogSize=2", "--syncdelay=1"]) as server:
        yield server


def wait_for_the_last_answer(mongo: Mongo) -> None:
    """Wait until no stream is read: what a frozen process had asked for last is answered, and it asks for no more."""
    running: list[dict[str, Any]] = [{"$currentOp": {}}, {"$match": {"op": "getmore", "ns": {"$regex": "^q[.]"}}}]
    while list(mongo.admin.aggregate(running)):
        time.sleep(0.02)


def overrun(mongo: Mongo, since: Any) -> None:
    """Write until the server has forgotten what was at `since`."""
    oplog = mongo.local["oplog.rs"]
    filler = mongo.elsewhere.filler
    for _ in range(400):
        filler.insert_many([{"x": os.urandom(FILLER_BYTES)} for _ in range(FILLED_AT_ONCE)])
        filler.delete_many({})
        oldest = oplog.find_one(sort=[("$natural", 1)])
        if oldest is not None and oldest["ts"] > since:
            return
    raise AssertionError("the server forgets nothing")


@pytest.mark.parametrize("turn", range(sized(1, 50)))
async def test_worker_that_was_frozen_until_the_oplog_had_lost_its_place_runs_what_was_put_meanwhile(
    tmp_path: Path, turn: int
) -> None:
    log = tmp_path / "log"
    with forgetful(tmp_path / "data") as server, MongoClient[dict[str, Any]](server.uri, tz_aware=True) as mongo:
        app = StreamQ(server.uri, database="q")
        command = [sys.executable, "-m", "tests.faults.frozen", server.uri, "q", str(log)]
        async with app, trio.open_nursery() as nursery:
            worker = await nursery.start(partial(trio.run_process, command, stdin=subprocess.PIPE, check=False))
            try:
                first = await app.queue("default").put("before", id=ObjectId())
                assert await wrote(log, first.id)
                await trio.to_thread.run_sync(freeze, worker.pid)
                await app.queue("default").put("in the answer that waits for it", id=(told := ObjectId()))
                await trio.to_thread.run_sync(wait_for_the_last_answer, mongo)
                second = await app.queue("default").put("meanwhile", id=ObjectId())
                since = mongo.admin.command("ping")["$clusterTime"]["clusterTime"]
                await trio.to_thread.run_sync(overrun, mongo, since)
                worker.send_signal(signal.SIGCONT)
                assert await wrote(log, told)
                assert await wrote(log, second.id)
                third = await app.queue("default").put("after", id=ObjectId())
                assert await wrote(log, third.id)
                assert await wrote(log, "lost")
            finally:
                worker.send_signal(signal.SIGCONT)
                worker.terminate()
        app.close()


async def wrote(log: Path, word: ObjectId | str) -> bool:
    """Wait until a worker has written a word, such as the id of a task it runs; say whether it has."""
    with trio.move_on_after(2 * SOON_S):
        while [str(word)] not in list(lines(log)):  # noqa: ASYNC110
            await trio.sleep(0.02)
        return True
    return False
