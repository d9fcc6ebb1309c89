"""Putting: each caller hears the truth about its own tasks, whatever befell the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, TypeVarTuple, cast

import pytest
import trio
import trio.testing

from streamq import AccessRefused, PutUnknown, StoreError, StoreUnavailable, StreamQ
from streamq.bridge import InlineBridge
from streamq.core.new_task import NewTask, PutReply
from streamq.store.memory import MemoryStore
from streamq.testing import trio_time

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class FailingStore(MemoryStore):
    """A store whose puts fail with `error`, unsent, at the calls named."""

    def __init__(self, error: Exception, *at: int) -> None:
        super().__init__(trio_time)
        self.calls = 0
        self._error = error
        self._at = at

    def put(self, tasks: Sequence[NewTask], session: Any = None) -> list[PutReply]:
        self.calls += 1
        if self.calls in self._at:
            raise self._error
        return super().put(tasks, session)


class RefusingStore(MemoryStore):
    """A store that does not take the payload "bad"; what else is put with it is stored, as by an unordered insert."""

    def put(self, tasks: Sequence[NewTask], session: Any = None) -> list[PutReply]:
        replies = super().put([one for one in tasks if one.payload != "bad"], session)
        if len(replies) < len(tasks):
            raise StoreError("cannot put tasks: document failed validation")
        return replies


class GatedBridge(InlineBridge):
    """A bridge on which puts wait for `gate`, as in a thread: they are sent, and cannot be cancelled."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.sizes: list[int] = []

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if getattr(function, "__name__", "") == "put":
            self.sizes.append(len(cast(Any, args)[0]))
            with trio.CancelScope(shield=True):
                await self.gate.wait()
        return await super().call(function, *args)


async def put_together(app: StreamQ, bridge: GatedBridge, payloads: Sequence[str]) -> dict[str, object]:
    """Put one task that goes alone, then `payloads` in one batch; return what each of these heard."""
    heard: dict[str, object] = {}

    async def put(payload: str) -> None:
        try:
            heard[payload] = (await app.queue("q").put(payload)).created
        except StoreError as error:
            heard[payload] = error

    async with trio.open_nursery() as nursery:
        for payload in ("leader", *payloads):
            nursery.start_soon(put, payload)
            await trio.testing.wait_all_tasks_blocked()
        bridge.gate.set()
    assert bridge.sizes[:2] == [1, len(payloads)]
    del heard["leader"]
    return heard


# --- one of a batch --------------------------------------------------------------------------------------------


async def test_put_that_the_store_refuses_is_told_to_its_own_caller_alone() -> None:
    """The others of its batch are stored, and hear so."""
    store, bridge = RefusingStore(trio_time), GatedBridge()
    app = StreamQ.on(store, bridge)
    async with app:
        heard = await put_together(app, bridge, ["a", "bad", "b", "c"])
    assert isinstance(heard.pop("bad"), StoreError)
    assert all(not isinstance(answer, Exception) for answer in heard.values())
    assert sorted(one["payload"] for one in store.documents.values()) == ["a", "b", "c", "leader"]


@pytest.mark.parametrize("error", [StoreUnavailable("no primary"), AccessRefused("no right to insert")])
async def test_batch_that_was_not_sent_is_not_repeated_one_by_one(error: StoreError) -> None:
    """No single task is at fault when the server is away or refuses its user: asking for each would help nobody."""
    store, bridge = FailingStore(error, 2), GatedBridge()
    app = StreamQ.on(store, bridge)
    async with app:
        heard = await put_together(app, bridge, ["a", "b", "c"])
    assert set(heard.values()) == {error}
    assert store.calls == 2


# --- chunks ----------------------------------------------------------------------------------------------------


async def test_put_many_says_what_is_not_known_to_be_stored_when_a_later_chunk_finds_no_server() -> None:
    """With a chunk stored before, "nothing was sent" would be false: the error names the rest, and only that."""
    store = FailingStore(StoreUnavailable("no primary"), 2)
    app = StreamQ.on(store, InlineBridge())
    news = [app.queue("q").new(number) for number in range(2_500)]
    async with app:
        with pytest.raises(PutUnknown) as caught:
            await app.put_many(news)
    assert list(caught.value.ids) == [one.id for one in news[1_000:]]
    assert set(store.documents) == {one.id for one in news[:1_000]}


async def test_put_many_says_that_nothing_was_stored_when_its_first_chunk_finds_no_server() -> None:
    """Then the caller may as well put other tasks."""
    store = FailingStore(StoreUnavailable("no primary"), 1)
    app = StreamQ.on(store, InlineBridge())
    async with app:
        with pytest.raises(StoreUnavailable):
            await app.queue("q").put_many(range(1_500))
    assert not store.documents


async def test_put_many_stores_none_twice_when_it_is_repeated_with_the_same_tasks() -> None:
    """That is what the error tells its caller to do."""
    store = FailingStore(StoreUnavailable("no primary"), 2)
    app = StreamQ.on(store, InlineBridge())
    news = [app.queue("q").new(number) for number in range(1_500)]
    async with app:
        with pytest.raises(PutUnknown):
            await app.put_many(news)
        handles = await app.put_many(news)
    assert [handle.created for handle in handles].count(False) == 1_000
    assert set(store.documents) == {one.id for one in news}
