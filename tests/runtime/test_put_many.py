"""A put of many through each door: any iterable, drawn chunk by chunk, in memory that does not grow with the tasks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
from bson import ObjectId

from streamq import (
    Handle,
    NewTask,
    OptionInvalid,
    PayloadInvalid,
    PutReply,
    PutStopped,
    PutUnknown,
    StoreUnavailable,
    StreamQ,
    UsageError,
)
from streamq.bridge import InlineBridge
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time


class ForgetfulStore(MemoryStore):
    """Takes tasks and forgets them; fails at the call named."""

    def __init__(self, fails_at: int = 0) -> None:
        super().__init__(trio_time)
        self.sizes: list[int] = []
        self._fails_at = fails_at

    def put(self, tasks: Sequence[NewTask], session: Any = None) -> list[PutReply]:
        self.sizes.append(len(tasks))
        if len(self.sizes) == self._fails_at:
            raise StoreUnavailable("no primary")
        return [PutReply(one.id) for one in tasks]


def forgetful(fails_at: int = 0) -> tuple[StreamQ, ForgetfulStore]:
    store = ForgetfulStore(fails_at)
    return StreamQ.on(store, InlineBridge()), store


def payloads_of(app: StreamQ) -> list[Any]:
    assert isinstance(app.store, MemoryStore)
    return [one["payload"] for one in app.store.documents.values()]


# --- memory --------------------------------------------------------------------------------------------------------

Door = Callable[[StreamQ, int], Any]
DOORS: dict[str, Door] = {
    "tasks": lambda app, count: app.put_many(app.queue("q").new({"n": n}) for n in range(count)),
    "payloads": lambda app, count: app.queue("q").put_many({"n": n} for n in range(count)),
    "a collection": lambda app, count: app.queue("q").put_many(range(count)),
    "tasks, blocking": lambda app, count: app.blocking.put_many(app.queue("q").new({"n": n}) for n in range(count)),
    "payloads, blocking": lambda app, count: app.blocking.queue("q").put_many({"n": n} for n in range(count)),
}
TASKS = 20_000
MORE_BYTES = 1_000_000
"""A replies' 14 bytes a task are 250 KB; the tasks themselves, held, would be 10 MB."""


@pytest.mark.parametrize("door", DOORS)
async def test_memory_of_a_put_of_many_does_not_grow_with_the_tasks(door: str) -> None:
    app, _ = forgetful()

    async def peak_bytes(count: int) -> int:
        tracemalloc.start()
        try:
            replies = DOORS[door](app, count)
            replies = replies if isinstance(replies, Sequence) else await replies
            assert len(replies) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    async with app:
        await peak_bytes(TASKS // 10)  # what is made once, at the first use
        few, many = await peak_bytes(TASKS // 10), await peak_bytes(TASKS)
    assert many - few < MORE_BYTES


# --- what is given -------------------------------------------------------------------------------------------------


async def test_handles_are_a_sequence_of_what_was_put() -> None:
    app = memory_app()
    async with app:
        new = [app.queue("q").new(0), app.queue("q").new(1, keep_s=0), app.queue("q").new(2, unique="k")]
        new.append(app.queue("q").new(3, unique="k"))
        handles = await app.put_many(iter(new))
        assert [one.id for one in handles] == [new[0].id, new[1].id, new[2].id, new[2].id]
        assert [one.outcome for one in handles[1:]] == ["created", "created", "existing"]
        assert (handles.index(handles[1]), len(set(handles)), handles[0] == handles[1]) == (1, 3, False)
        assert await handles[-1].status() == "ready"
        assert [isinstance(one, Handle) for one in reversed(handles)] == [True] * 4
        with pytest.raises(UsageError, match="keep_s=0"):
            await handles[1].wait()
        with pytest.raises(IndexError):
            handles[4]


async def test_a_generator_is_drawn_no_further_than_is_stored_next() -> None:
    app, store = forgetful(fails_at=2)
    drawn: list[int] = []

    def payloads() -> Iterator[int]:
        for n in range(3_500):
            drawn.append(n)
            yield n

    left = payloads()
    async with app:
        with pytest.raises(PutUnknown) as caught:
            await app.queue("q").put_many(left)
        assert (len(caught.value.stored), len(caught.value.ids), len(drawn)) == (1_000, 1_000, 2_000)
        handles = await app.queue("q").put_many(left)  # it goes on where it was
    assert len(handles) == 1_500
    assert store.sizes == [1_000, 1_000, 1_000, 500]


@pytest.mark.parametrize("wrong", [7, None])
async def test_what_is_not_an_iterable_is_refused(wrong: Any) -> None:
    app = memory_app()
    async with app:
        with pytest.raises(OptionInvalid, match="tasks="):
            await app.put_many(wrong)
        with pytest.raises(OptionInvalid, match="payloads="):
            await app.queue("q").put_many(wrong)


@pytest.mark.parametrize("wrong", ["abc", b"abc", bytearray(b"abc"), {"price": 101.5}])
async def test_one_payload_in_place_of_many_is_refused(wrong: Any) -> None:
    """A text has characters and a dict has keys: nobody means a task for each."""
    app = memory_app()
    async with app:
        with pytest.raises(OptionInvalid, match=r"payloads=.*one payload is put by put"):
            await app.queue("q").put_many(wrong)
        with pytest.raises(OptionInvalid, match=r"payloads=.*one payload is put by put"):
            app.blocking.queue("q").put_many(wrong)
        assert await app.counts() == {}


async def test_what_is_refused_is_shown_in_short() -> None:
    app = memory_app()
    async with app:
        with pytest.raises(OptionInvalid) as caught:
            await app.queue("q").put_many("a" * 5_000)
    assert len(str(caught.value)) < 300
    assert caught.value.value == "a" * 5_000


# --- bad input -----------------------------------------------------------------------------------------------------

BAD = object()


def some(count: int, bad_at: int) -> list[Any]:
    return [BAD if n == bad_at else n for n in range(count)]


@pytest.mark.parametrize("bad_at", [0, 999, 1_000, 2_400])
@pytest.mark.parametrize("kind", [list, tuple])
async def test_a_bad_payload_anywhere_in_a_collection_is_refused_before_anything_is_stored(
    bad_at: int, kind: Callable[[Iterable[Any]], Any]
) -> None:
    app = memory_app()
    async with app:
        with pytest.raises(PayloadInvalid):
            await app.queue("q").put_many(kind(some(2_500, bad_at)))
        with pytest.raises(PayloadInvalid):
            app.blocking.queue("q").put_many(kind(some(2_500, bad_at)))
    assert payloads_of(app) == []


async def test_a_bad_payload_among_few_large_ones_is_refused_before_anything_is_stored() -> None:
    """They go in chunks of fewer."""
    app = memory_app()
    async with app:
        with pytest.raises(PayloadInvalid):
            await app.queue("q").put_many([*["x" * 1_000_000] * 20, BAD])
    assert payloads_of(app) == []


async def test_a_bad_task_anywhere_in_a_list_is_refused_before_anything_is_stored() -> None:
    app = memory_app()
    async with app:
        new: list[Any] = [app.queue("q").new(n) for n in range(1_500)]
        new.append({"n": 1})
        with pytest.raises(UsageError, match="got dict"):
            await app.put_many(new)
        with pytest.raises(UsageError, match="got dict"):
            app.blocking.put_many(new)
    assert payloads_of(app) == []


@pytest.mark.parametrize("bad_at", [0, 999])
async def test_a_bad_payload_in_the_first_chunk_of_a_generator_is_raised_as_it_is(bad_at: int) -> None:
    app = memory_app()
    async with app:
        with pytest.raises(PayloadInvalid):
            await app.queue("q").put_many(iter(some(2_500, bad_at)))
    assert payloads_of(app) == []


@pytest.mark.parametrize("bad_at", [2_000, 2_400])
async def test_a_bad_payload_in_a_later_chunk_of_a_generator_stops_the_put_and_tells_what_is_stored(
    bad_at: int,
) -> None:
    app = memory_app()
    async with app:
        with pytest.raises(PutStopped) as caught:
            await app.queue("q").put_many(iter(some(2_500, bad_at)))
    assert isinstance(caught.value.__cause__, PayloadInvalid)
    assert payloads_of(app) == list(range(2_000))
    assert isinstance(app.store, MemoryStore)
    assert [one.id for one in caught.value.stored] == list(app.store.documents)


# --- dependencies --------------------------------------------------------------------------------------------------


async def test_a_list_may_name_parents_anywhere_before_in_it() -> None:
    app = memory_app()
    async with app:
        queue = app.queue("q")
        first = queue.new("first", keep_s=0)
        new = [first, *(queue.new(n) for n in range(1_500)), queue.new("child", after=[first.id])]
        assert len(await app.put_many(new)) == 1_502
        with pytest.raises(OptionInvalid, match="after"):
            await app.put_many([*(queue.new(n) for n in range(1_500)), queue.new("child", after=[ObjectId()])])
    assert len(payloads_of(app)) == 1_502


async def test_a_generator_may_name_parents_that_are_stored_by_then() -> None:
    app = memory_app()
    async with app:
        queue = app.queue("q")
        first = queue.new("first")
        parents = [first.id]

        def new() -> Iterator[NewTask]:
            yield first
            yield from (queue.new(n) for n in range(1_500))
            yield queue.new("child", after=parents)
            yield from (queue.new(n) for n in range(1_000))
            yield queue.new("orphan", after=[ObjectId()])

        with pytest.raises(PutStopped, match="after="):
            await app.put_many(new())
    assert len(payloads_of(app)) == 2_000
    assert "child" in payloads_of(app)
