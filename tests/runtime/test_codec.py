"""An app's codec: what it is given, and what becomes of tasks when it fails."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import pytest
import trio

import streamq
from streamq import CodecContext, OptionInvalid, PayloadInvalid, Retry, StreamQ, TaskFailed
from streamq.bridge import InlineBridge
from streamq.store.coded import uncovered
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time

CANARY = "canary"


class Point(msgspec.Struct, frozen=True):
    x: int
    tags: set[str]


class Packed:
    """Compresses; notes what for; fails on demand."""

    def __init__(self, fails: tuple[str, ...] = ()) -> None:
        self.seen: list[CodecContext] = []
        self.fails = fails

    def encode(self, data: bytes, context: CodecContext) -> bytes:
        self.seen.append(context)
        if f"encode {context.field}" in self.fails:
            raise KeyError("no key")
        return bytes(255 - one for one in zlib.compress(data))

    def decode(self, data: bytes, context: CodecContext) -> bytes:
        if f"decode {context.field}" in self.fails:
            raise KeyError("no key")
        return zlib.decompress(bytes(255 - one for one in data))


def documents(app: StreamQ) -> dict[Any, Any]:
    store = uncovered(app.store)
    assert isinstance(store, MemoryStore)
    return store.documents


async def test_all_that_a_task_carries_is_encoded_and_comes_back_the_same() -> None:
    codec = Packed()
    app = memory_app(codec=codec, retry=Retry(max_attempts=1))

    @app.task(queue="q")
    async def move(point: Point, big: int) -> list[Point]:
        await streamq.progress(0.5, CANARY)
        if big < 0:
            raise ValueError(CANARY)
        return [point]

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        point = Point(1, {CANARY})
        good = await move.put(point, big=2**80)
        assert await good.result() == [point]
        bad = await move.put(point, big=-1)
        with pytest.raises(TaskFailed, match=CANARY):
            await bad.result()
        progress = await bad.progress()
        assert progress is not None
        assert (progress.value, progress.note) == (0.5, CANARY)
        view = await app.desk.show(bad.id)
        assert (view.payload["big"], view.errors[0].type, view.errors[0].message) == (-1, "ValueError", CANARY)
        assert "raise ValueError(CANARY)" in view.errors[0].traceback
        nursery.cancel_scope.cancel()
    stored = repr(documents(app))
    assert CANARY not in stored
    assert "ValueError" in stored
    assert set(codec.seen) == {CodecContext(field, "q") for field in ("payload", "result", "error", "progress")}


async def test_task_that_is_claimed_when_it_is_due_is_decoded() -> None:
    """By a call of the store's own, which takes it as it was read."""
    app = memory_app(codec=Packed())

    @app.task
    async def move(point: Point) -> int:
        return point.x

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        assert await (await move.options(delay_s=5).put(Point(7, {CANARY}))).result() == 7
        nursery.cancel_scope.cancel()


async def test_task_with_a_bare_payload_and_a_replaced_one_are_encoded() -> None:
    app = memory_app(codec=Packed())
    queue = app.queue("q")
    async with app:
        await queue.put([CANARY], unique="k", delay_s=60)
        assert (await queue.put({"~coded": CANARY}, unique="k", on_conflict="replace")).outcome == "replaced"
        assert CANARY not in repr(documents(app))
        task = await queue.claim()
        assert task is not None
        assert task.payload == {"~coded": CANARY}
        await task.succeed({"$set": CANARY})
        assert await app.handle(task.info.id).result() == {"$set": CANARY}
        assert [one.payload for one in await app.desk.find()] == [{"~coded": CANARY}]
    assert CANARY not in repr(documents(app))


async def test_recurring_task_is_encoded_too() -> None:
    app = memory_app(codec=Packed())
    ran = trio.Event()

    @app.task(every_s=60)
    async def beat() -> None:
        ran.set()

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        await ran.wait()
        nursery.cancel_scope.cancel()
    assert [set(one["payload"]) for one in documents(app).values() if "payload" in one] == [{"~coded"}]


async def test_put_is_refused_when_the_codec_fails_and_nothing_is_stored() -> None:
    app = memory_app(codec=Packed(fails=("encode payload",)))
    async with app:
        with pytest.raises(PayloadInvalid, match=r"payload: the app's codec raised KeyError"):
            await app.queue("q").put(1)
        assert await app.counts() == {}


async def test_codec_that_returns_no_bytes_is_told() -> None:
    class Wrong(Packed):
        def encode(self, data: bytes, context: CodecContext) -> Any:
            return data.hex()

    app = memory_app(codec=Wrong())
    async with app:
        with pytest.raises(PayloadInvalid, match="returned str, not bytes"):
            await app.queue("q").put(1)


async def test_result_that_the_codec_cannot_encode_fails_its_task_and_no_other() -> None:
    codec = Packed()
    app = memory_app(codec=codec)

    @app.task
    async def run(answer: str | None) -> str | None:
        return answer

    async with app:
        first, second = await run.put(CANARY), await run.put(None)
        codec.fails = ("encode result",)
        async with trio.open_nursery() as nursery:
            await nursery.start(app.work)
            with pytest.raises(TaskFailed, match=r"CodecFailed.*KeyError"):
                await first.result()
            assert await second.result() is None
            nursery.cancel_scope.cancel()


async def test_error_that_the_codec_cannot_encode_is_stored_without_its_text() -> None:
    app = memory_app(codec=Packed(fails=("encode error", "encode progress")), retry=Retry(max_attempts=1))

    @app.task
    async def run() -> None:
        await streamq.progress(1, CANARY)
        raise ValueError(CANARY)

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        with pytest.raises(TaskFailed, match=r"ValueError: \(the app's codec could not encode it\)"):
            await (await run.put()).result()
        nursery.cancel_scope.cancel()
    assert CANARY not in repr(documents(app))


@pytest.mark.parametrize("codec", [None, Packed(fails=("decode payload",))])
async def test_payload_that_cannot_be_decoded_fails_its_task_for_good_and_a_requeue_mends_it(codec: Any) -> None:
    store = MemoryStore(trio_time)
    right = StreamQ.on(store, InlineBridge(), codec=Packed())
    wrong = StreamQ.on(store, InlineBridge(), codec=codec)

    async def run(word: str) -> str:
        return word

    put = right.task(run)
    wrong.task(run)
    async with right, wrong:
        handle = await put.put(CANARY)
        for app in (wrong, right):
            async with trio.open_nursery() as nursery:
                await nursery.start(app.work)
                if app is wrong:
                    with pytest.raises(TaskFailed, match=r"PayloadUndecodable.*codec"):
                        await handle.result()
                    await right.desk.requeue(handle.id)
                else:
                    assert await handle.result() == CANARY
                nursery.cancel_scope.cancel()


async def test_what_was_stored_without_the_codec_is_still_read() -> None:
    store = MemoryStore(trio_time)
    before, after = StreamQ.on(store, InlineBridge()), StreamQ.on(store, InlineBridge(), codec=Packed())
    async with before, after:
        await before.queue("q").put({"old": 1})
        task = await after.queue("q").claim()
        assert task is not None
        assert task.payload == {"old": 1}
        await task.succeed()


async def test_search_by_payload_is_refused_by_name() -> None:
    app = memory_app(codec=Packed())
    async with app:
        with pytest.raises(OptionInvalid, match=r"payload='user.id'.*codec"):
            await app.desk.find(payload={"user.id": 7})


@pytest.mark.parametrize("codec", [1, object(), zlib])
def test_codec_without_its_methods_is_refused(codec: Any) -> None:
    with pytest.raises(OptionInvalid, match="codec"):
        StreamQ(codec=codec)


def test_app_without_a_codec_has_none_of_it() -> None:
    app = memory_app()
    assert type(app.store) is MemoryStore
