"""Group commit: what arrives while a write is in flight rides in the next one, and everybody gets an own answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, TypeVarTuple, cast

import pytest
import trio
import trio.testing
from bson import ObjectId

from streamq import Handle, PutUnknown, StoreUnavailable, StreamQ
from streamq.bridge import InlineBridge
from streamq.store.memory import MemoryStore
from streamq.testing import memory_app, trio_time

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class GatedBridge(InlineBridge):
    """A bridge that counts calls by name and on which puts wait for `gate`, as in a thread: sent, not cancellable."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.calls: list[str] = []

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        name = getattr(function, "__name__", "")
        self.calls.append(name)
        if name == "put":
            await trio.lowlevel.checkpoint_if_cancelled()
            with trio.CancelScope(shield=True):
                await self.gate.wait()
        return await super().call(function, *args)


class SlowBridge(InlineBridge):
    """A bridge on which a put takes a second, as in a thread: sent, not cancellable."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if getattr(function, "__name__", "") == "put":
            self.sizes.append(len(cast(Any, args)[0]))
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
        return await super().call(function, *args)


def gated_app() -> tuple[StreamQ, GatedBridge]:
    bridge = GatedBridge()
    return StreamQ.on(MemoryStore(trio_time), bridge), bridge


def documents(app: StreamQ) -> dict[ObjectId, Any]:
    return cast(dict[ObjectId, Any], cast(MemoryStore, app.store).documents)


async def test_first_put_goes_alone_and_those_that_come_meanwhile_go_together() -> None:
    app, bridge = gated_app()
    queue = app.queue("q")
    handles: list[Handle[Any]] = []

    async def put(number: int) -> None:
        handles.append(await queue.put(number))

    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(put, 0)
        await trio.testing.wait_all_tasks_blocked()
        assert bridge.calls.count("put") == 1
        for number in range(1, 64):
            nursery.start_soon(put, number)
        await trio.testing.wait_all_tasks_blocked()
        assert bridge.calls.count("put") == 1
        bridge.gate.set()
    assert bridge.calls.count("put") == 2
    assert {handle.id for handle in handles} == set(documents(app))
    assert sorted(document["payload"] for document in documents(app).values()) == list(range(64))


async def test_tasks_that_put_again_and_again_are_always_stored_together() -> None:
    """The first that is answered does not go alone, with the others waiting for its round trip."""
    bridge = SlowBridge()
    app = StreamQ.on(MemoryStore(trio_time), bridge)

    async def put() -> None:
        for number in range(5):
            await app.queue("q").put(number)

    async with app, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(put)
    assert bridge.sizes == [1, 8, 8, 8, 8, 7]


async def test_settlements_of_tasks_that_end_together_are_few_writes() -> None:
    app, bridge = gated_app()
    bridge.gate.set()

    @app.task
    async def wait() -> None:
        await trio.sleep(10)

    async with app, trio.open_nursery() as nursery:
        handles = [await wait.put() for _ in range(64)]
        nursery.start_soon(lambda: app.work(concurrency=64))
        for handle in handles:
            await handle.wait()
        nursery.cancel_scope.cancel()
    assert bridge.calls.count("settle") <= 3
    assert app.journal.counts["succeed"] == 64


async def test_put_cancelled_before_it_was_sent_is_withdrawn() -> None:
    app, bridge = gated_app()
    queue = app.queue("q")
    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(queue.put, "first")
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + 1
            await queue.put("second")
        assert scope.cancelled_caught
        bridge.gate.set()
    assert [document["payload"] for document in documents(app).values()] == ["first"]


async def test_put_cancelled_after_it_was_sent_is_stored_and_returned() -> None:
    app, bridge = gated_app()
    queue = app.queue("q")
    returned: list[Handle[Any]] = []

    async def put() -> None:
        with trio.move_on_after(1):
            returned.append(await queue.put("sent"))

    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(put)
        await trio.sleep(5)
        assert not returned
        bridge.gate.set()
    assert [handle.id for handle in returned] == list(documents(app))


async def test_put_cancelled_while_its_batch_is_on_its_way_is_stored_and_returned() -> None:
    """So is one that waited first and was sent with others."""
    bridge = SlowBridge()
    app = StreamQ.on(MemoryStore(trio_time), bridge)
    returned: list[Handle[Any]] = []

    async def put(timeout_s: float) -> None:
        with trio.move_on_after(timeout_s) as scope:
            returned.append(await app.queue("q").put(timeout_s))
            # The cancellation that came meanwhile is not lost: it is told at the next checkpoint.
            await trio.lowlevel.checkpoint_if_cancelled()
        assert scope.cancelled_caught

    async with app, trio.open_nursery() as nursery:
        for timeout_s in (0.9, 0.8, 1.5, 1.6):  # one goes alone, one is withdrawn, two are sent at 1 s
            nursery.start_soon(put, timeout_s)
            await trio.testing.wait_all_tasks_blocked()
    assert bridge.sizes == [1, 2]
    assert {handle.id for handle in returned} == set(documents(app))


async def test_cancelled_caller_sends_nothing() -> None:
    app, bridge = gated_app()
    bridge.gate.set()
    async with app:
        with trio.CancelScope() as scope:
            scope.cancel()
            await app.queue("q").put(1)
    assert not documents(app)


async def test_unknown_outcome_of_a_batch_is_told_to_each_with_its_own_id(monkeypatch: pytest.MonkeyPatch) -> None:
    app, bridge = gated_app()
    ids = [ObjectId() for _ in range(5)]
    told: dict[ObjectId, list[Any]] = {}

    def unknown(tasks: Sequence[Any], session: Any = None) -> None:
        raise PutUnknown([one.id for one in tasks], "no majority")

    unknown.__name__ = "put"
    monkeypatch.setattr(app.store, "put", unknown)

    async def put(id: ObjectId) -> None:
        try:
            await app.queue("q").put(1, id=id)
        except PutUnknown as error:
            told[id] = error.ids

    async with app, trio.open_nursery() as nursery:
        for id in ids:
            nursery.start_soon(put, id)
        await trio.testing.wait_all_tasks_blocked()
        bridge.gate.set()
    assert told == {id: [id] for id in ids}


async def test_put_many_that_stops_half_way_names_all_that_are_not_known_to_be_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = memory_app()
    real = app.store.put
    calls: list[int] = []

    def put(tasks: Sequence[Any], session: Any = None) -> Any:
        calls.append(len(tasks))
        if len(calls) == 2:
            raise PutUnknown([one.id for one in tasks], "no majority")
        return real(tasks)

    monkeypatch.setattr(app.store, "put", put)
    async with app:
        with pytest.raises(PutUnknown) as caught:
            await app.queue("q").put_many(range(2_500))
    assert calls == [1_000, 1_000]
    assert len(caught.value.ids) == 1_500
    assert not set(caught.value.ids) & set(documents(app))


async def test_put_repeated_with_its_id_stores_one_and_says_so() -> None:
    app = memory_app()
    id = ObjectId()
    async with app:
        first = await app.queue("q").put("once", id=id)
        again = await app.queue("q").put("once", id=id)
    assert (first.created, again.created) == (True, False)
    assert list(documents(app)) == [id]


async def test_put_while_the_server_is_away_says_that_nothing_was_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    app = memory_app()

    def away(tasks: Sequence[Any], session: Any = None) -> None:
        raise StoreUnavailable("no primary")

    async with app:
        with monkeypatch.context() as patch:
            patch.setattr(app.store, "put", away)
            with pytest.raises(StoreUnavailable):
                await app.queue("q").put(1)
        await app.queue("q").put(2)
    assert [document["payload"] for document in documents(app).values()] == [2]
