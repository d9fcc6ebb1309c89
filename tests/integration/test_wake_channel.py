"""Workers with the wake channel: it wakes by itself, and whatever becomes of it the change stream wakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
import trio

from streamq import Handle, OptionInvalid, StreamQ
from streamq.core.wake import Wake
from streamq.errors import FeedEnded
from streamq.store.contract import Feed
from streamq.testing import memory_app
from tests.integration.conftest import MakeApp, Mongo
from tests.integration.echo import echoing

SOON_S: Final = 10.0


class Between:
    """Stands between a feed and its reader."""

    def __init__(self, feed: Feed, let: Callable[[Wake | None], Wake | None]) -> None:
        self._feed = feed
        self._let = let

    def read(self) -> Wake | None:
        return self._let(self._feed.read())

    def close(self) -> None:
        self._feed.close()


def between(app: StreamQ, method: str, let: Callable[[Wake | None], Wake | None]) -> None:
    """Let the feeds that `method` of the app's store opens go through `let`."""
    store: Any = app.store
    real = getattr(store, method)
    setattr(store, method, lambda *args: Between(real(*args), let))


def deaf(wake: Wake | None) -> Wake | None:
    """Leave out new tasks."""
    return None if wake is not None and wake.kind == "ready" else wake


async def opened(app: StreamQ, times: int = 1) -> None:
    """Wait until the wake channel was opened so often, and the queue was looked at."""
    with trio.fail_after(SOON_S):
        while app.journal.counts["wake channel open"] < times or not app.journal.counts["claim calls"]:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def result(handle: Handle[str]) -> str:
    return await handle.result(timeout_s=SOON_S)


async def test_task_is_run_by_the_wake_channel_alone(make_app: MakeApp) -> None:
    """The stream tells of no new task here, and nobody looks."""
    here, elsewhere = make_app(wake="tailable", safety_scan_s=None), make_app(wake="tailable")
    echoing(here)
    echo = echoing(elsewhere)
    between(here, "feed", deaf)
    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        await opened(here)
        assert await result(await echo.put("a")) == "a"
        assert [await result(one) for one in await elsewhere.put_many(echo.new(f"{n}") for n in range(5))] == [*"01234"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("producers", "workers"), [("stream", "tailable"), ("tailable", "stream")])
async def test_producer_and_worker_may_differ_in_how_they_wake(make_app: MakeApp, producers: str, workers: str) -> None:
    here, elsewhere = make_app(wake=workers, safety_scan_s=None), make_app(wake=producers)
    echoing(here)
    echo = echoing(elsewhere)
    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        assert await result(await echo.put("a")) == "a"
        nursery.cancel_scope.cancel()


async def test_task_that_the_wake_channel_does_not_tell_is_run_by_the_stream(make_app: MakeApp) -> None:
    here, elsewhere = make_app(wake="tailable", safety_scan_s=None), make_app(wake="tailable")
    echoing(here)
    echo = echoing(elsewhere)
    between(here, "tail", deaf)
    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        await opened(here)
        assert await result(await echo.put("a")) == "a"
        nursery.cancel_scope.cancel()


async def test_wake_channel_that_dies_is_opened_again_and_what_it_missed_the_stream_tells(make_app: MakeApp) -> None:
    """As after a full turn between two reads: the notice of the first task is lost with the cursor."""
    here, elsewhere = make_app(wake="tailable", safety_scan_s=None), make_app(wake="tailable")
    echoing(here)
    echo = echoing(elsewhere)
    lost: list[Wake] = []

    def lose_the_first(wake: Wake | None) -> Wake | None:
        if wake is not None and wake.kind == "ready" and not lost:
            lost.append(wake)
            raise FeedEnded("it turned over")
        return wake

    between(here, "tail", lose_the_first)
    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        await opened(here)
        first = await echo.put("a")
        assert await result(first) == "a"
        assert [wake.id for wake in lost] == [first.id]
        await opened(here, 2)
        between_now = here.journal.counts["wake channel open"]
        assert await result(await echo.put("b")) == "b"
        assert here.journal.counts["wake channel open"] == between_now
        assert not here.journal.counts["stream lost, trying again"]  # the stream does not notice
        nursery.cancel_scope.cancel()


async def test_dropped_wake_channel_is_made_again_by_a_worker_and_wakes_again(
    make_app: MakeApp, mongo: Mongo, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamq.store.wake_channel.LOOK_S", 0.0)
    monkeypatch.setattr("streamq.store.wake_channel.AWAIT_MS", 100)  # the server ends no read that waits at a drop
    here, elsewhere = make_app(wake="tailable", safety_scan_s=None), make_app(wake="tailable")
    echoing(here)
    echo = echoing(elsewhere)
    hears = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def noted(wake: Wake | None) -> Wake | None:
        if wake is not None and wake.kind == "ready":
            token.run_sync_soon(hears.set)
        return wake

    between(here, "tail", noted)
    async with here, elsewhere, trio.open_nursery() as nursery:
        await nursery.start(here.work)
        await opened(here)
        await trio.to_thread.run_sync(mongo[database].drop_collection, "tasks.wakes")
        assert await result(await echo.put("a")) == "a"
        await opened(here, 2)
        assert mongo[database]["tasks.wakes"].options()["capped"]
        # The first put after the drop finds out, a later one tells again.
        with trio.fail_after(SOON_S):
            while not hears.is_set():
                assert await result(await echo.put("b")) == "b"
        nursery.cancel_scope.cancel()


async def test_worker_with_the_wake_channel_stops_at_once(make_app: MakeApp) -> None:
    """Both threads wait in a read of 10 s: each hears its bell. They are waited for shielded, so the clock is read."""
    app = make_app(wake="tailable")
    echoing(app)
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        await opened(app)
        stopped_at = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - stopped_at < SOON_S / 2


async def test_task_told_of_by_each_channel_costs_one_claim(make_app: MakeApp) -> None:
    """By the put of its own process, the wake channel and the stream."""
    app = make_app(wake="tailable", safety_scan_s=None)
    echo = echoing(app)
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        assert await result(await echo.put("first")) == "first"
        await opened(app, 2)  # the stream was opened anew, to tell of results, and the wake channel with it
        with trio.fail_after(SOON_S):
            while not app.services()._tailer.is_open:  # type: ignore[union-attr] # noqa: ASYNC110
                await trio.sleep(0.01)
        before = app.journal.counts["claim calls"]
        for text in "abcdefgh":
            assert await result(await echo.put(text)) == text
        # The stream has told of a task's end, so of its put too. The look that belongs to its opening may come late.
        assert app.journal.counts["claim calls"] - before in (8, 9)
        nursery.cancel_scope.cancel()


def test_option_is_refused_when_it_names_no_channel() -> None:
    with pytest.raises(OptionInvalid, match="wake"):
        StreamQ("mongodb://unused", wake="tail")  # type: ignore[arg-type]


def test_dead_letters_cannot_be_kept_in_the_wake_channel() -> None:
    with pytest.raises(OptionInvalid, match="dead_letter_collection"):
        StreamQ("mongodb://unused", dead_letter_collection="tasks.wakes")


async def test_app_in_memory_takes_the_option() -> None:
    """Its wakes are immediate anyway."""
    app = memory_app(wake="tailable")
    echo = echoing(app)
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        assert await result(await echo.put("a")) == "a"
        nursery.cancel_scope.cancel()
