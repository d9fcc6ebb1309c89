"""The road of every kind of task, walked once by one program, as a careful user walks it.

What may be called again after an error is called again, with the same ids. Every step is bounded. At the end the stored
tasks are compared with what was run: each put is there, ended once and as it should, and was begun as often as it
counts attempts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import trio
from bson import ObjectId
from pymongo.errors import DuplicateKeyError, PyMongoError

from streamq import LeaseLost, Retry, StoreError, StreamQ, TransactionAborted, current_task, progress, transaction
from tests.databases import Mongo
from tests.faults.lapses import Lapses
from tests.faults.orders import ORDERS

T = TypeVar("T")

LEASE_S: Final = 10.0
SHORT_LEASE_S: Final = 3.0
"""Of the handler that is slow: it is extended while that runs."""

TIMEOUT_S: Final = 2.0

LONGEST_S: Final = 30.0
"""How long a step may take, whatever is lost on it. A claim whose outcome is unknown is given back after `TIMEOUT_S`,
a task whose holder does not know of it after `LEASE_S`, and the driver looks for the server for half a second after
each broken connection; the rest is for a machine that is busy with other tests."""

PAUSE_S: Final = 0.05


class Answer(msgspec.Struct, frozen=True):
    text: str


class Flaw(Exception):
    """As the script wants it."""


class Expected(msgspec.Struct, frozen=True):
    """How a task ends, and after how many attempts; `kept` says whether it is stored then."""

    status: str
    attempts: int = 1
    kept: bool = True


class Road:
    """One walk, in a database of its own. `mongo` is a client that nothing happens to."""

    def __init__(self, app: StreamQ, mongo: Mongo, database: str) -> None:
        self.steps: dict[str, float] = {}
        self._app = app
        self._app.journal = Lapses(self._lapse)
        self._lapsed = 0
        self._told_lost = 0
        self._tasks = mongo[database].tasks
        self._orders = mongo[ORDERS].orders
        self._began: Counter[ObjectId] = Counter()
        self._undone: Counter[ObjectId] = Counter()
        self._expected: dict[ObjectId, Expected] = {}
        self._declare()

    def _declare(self) -> None:
        app = self._app
        own_orders = app.client[ORDERS].orders

        @app.task
        async def job(text: str) -> Answer:
            self._begin(current_task().id)
            return Answer(text)

        @app.task(retry=Retry(first_s=0.02))
        async def flaky(text: str) -> str:
            self._begin(current_task().id)
            if current_task().attempt == 1:
                raise Flaw
            return text

        @app.task(lease_s=SHORT_LEASE_S)
        async def slow(text: str) -> str:
            self._begin(current_task().id)
            await progress(0.5, "half way")
            await trio.sleep(SHORT_LEASE_S / 3 + 0.1)  # past a beat of the keeper
            await progress(0.9)
            return text

        @app.task
        async def pay(text: str) -> None:
            id = current_task().id
            self._begin(id)
            try:
                async with transaction() as session:
                    await trio.to_thread.run_sync(lambda: own_orders.insert_one({"paid": id}, session=session))
            except (PyMongoError, StoreError, TransactionAborted):
                self._undone[id] += 1
                raise TransactionAborted("as the server said") from None

        @app.task(queue="narrow")
        async def narrow(text: str) -> str:
            self._begin(current_task().id)
            return text

        app.limit("narrow", running=1)
        self.job, self.flaky, self.slow, self.pay, self.narrow = job, flaky, slow, pay, narrow

    def _begin(self, id: ObjectId) -> None:
        self._began[id] += 1

    def _lapse(self, leases: int = 1) -> None:
        self._lapsed += leases

    def _new(self, status: str = "succeeded", **more: Any) -> ObjectId:
        id = ObjectId()
        self._expected[id] = Expected(status, **more)
        return id

    # --- the steps ------------------------------------------------------------------------------------------------

    async def walk(self) -> None:
        """Walk it all, the app being left in the end. One that could not be entered is entered again."""
        entered = False
        while not entered:
            try:
                async with self._app:
                    entered = True
                    await self._walk()
            except StoreError:
                if entered:
                    raise
                await trio.sleep(PAUSE_S)

    async def _walk(self) -> None:
        with self._step("whole"):
            async with trio.open_nursery() as nursery:
                with self._step("start"), trio.fail_after(LONGEST_S):
                    await careful(partial(nursery.start, partial(self._app.work, concurrency=4)))
                for step in (
                    self._plain,
                    self._retried,
                    self._delayed,
                    self._in_a_transaction,
                    self._many,
                    self._cancelled,
                    self._followed,
                    self._unique,
                    self._limited,
                    self._paid,
                    self._slow,
                    self._bare,
                    self._without_trio,
                ):
                    with self._step(step.__name__), trio.fail_after(LONGEST_S):
                        await step()
                nursery.cancel_scope.cancel()

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began_at = time.monotonic()
        try:
            yield
        except BaseException as error:
            error.add_note(f"in the step {name!r}; {self._state()}")
            raise
        finally:
            self.steps[name] = time.monotonic() - began_at

    def _state(self) -> str:
        """Say what there is, for people who look why a step did not end."""
        of_each = {"_id": 0, "status": 1, "queue": 1, "task": 1, "attempt": 1, "claim_id": 1, "lease_until": 1}
        unended = {"status": {"$nin": ["succeeded", "cancelled"]}}
        return f"not ended: {list(self._tasks.find(unended, of_each))}; {dict(self._app.journal.counts)}"

    async def _plain(self) -> None:
        handle = await careful(partial(self.job.options(id=self._new()).put, "plain"))
        assert await careful(handle.result) == Answer("plain")

    async def _retried(self) -> None:
        handle = await careful(partial(self.flaky.options(id=self._new(attempts=2)).put, "flaky"))
        assert await careful(handle.result) == "flaky"

    async def _delayed(self) -> None:
        handle = await careful(partial(self.job.options(id=self._new(), delay_s=0.05).put, "later"))
        assert await careful(handle.result) == Answer("later")

    async def _in_a_transaction(self) -> None:
        id = self._new()
        new = self.job.options(id=id).new("ordered")
        orders = self._app.client[ORDERS].orders

        def order() -> None:
            def both(session: Any) -> None:
                orders.insert_one({"_id": id}, session=session)
                self._app.blocking.put(new, session=session)

            while True:
                with self._app.client.start_session() as session:
                    try:
                        session.with_transaction(both)
                    except DuplicateKeyError:
                        return  # what was said to have failed was committed
                    except (PyMongoError, StoreError):
                        time.sleep(PAUSE_S)
                    else:
                        return

        await trio.to_thread.run_sync(order)
        assert await careful(self._app.handle(id).result) == Answer("ordered")

    async def _many(self) -> None:
        """Those that are not kept are deleted at their end: nobody can wait for that."""
        news = [self.job.options(id=self._new(kept=False), keep_s=0).new(f"{number}") for number in range(4)]
        news.append(self.job.options(id=self._new()).new("kept"))
        handles = await careful(partial(self._app.put_many, news))
        assert await careful(handles[-1].result) == Answer("kept")
        await self._until(lambda: not self._tasks.count_documents({"_id": {"$in": [one.id for one in news[:-1]]}}))

    async def _cancelled(self) -> None:
        handle = await careful(partial(self.job.options(id=self._new("cancelled", attempts=0), delay_s=3600).put, "x"))
        assert await careful(handle.cancel) == "cancelled"

    async def _followed(self) -> None:
        parent = await careful(partial(self.job.options(id=self._new(), delay_s=0.05).put, "parent"))
        child = await careful(partial(self.job.options(id=self._new(), after=[parent]).put, "child"))
        assert await careful(child.result) == Answer("child")

    async def _unique(self) -> None:
        options = self.job.options(id=self._new("cancelled", attempts=0), unique="key", delay_s=3600)
        first = await careful(partial(options.put, "first"))
        second = await careful(partial(self.job.options(unique="key", delay_s=3600).put, "second"))
        assert second.id == first.id
        assert self._tasks.count_documents({"unique_key": "key"}) == 1
        assert await careful(first.cancel) == "cancelled"

    async def _limited(self) -> None:
        news = [self.narrow.options(id=self._new()).new(f"{number}") for number in range(2)]
        for handle in await careful(partial(self._app.put_many, news)):
            await careful(handle.result)

    async def _paid(self) -> None:
        handle = await careful(partial(self.pay.options(id=self._new()).put, "paid"))
        await careful(handle.result)
        assert self._orders.count_documents({"paid": handle.id}) == 1

    async def _slow(self) -> None:
        handle = await careful(partial(self.slow.options(id=self._new()).put, "slow"))
        assert await careful(handle.result) == "slow"

    async def _bare(self) -> None:
        queue = self._app.queue("bare")
        news = [queue.new(number, id=self._new()) for number in range(3)]
        await careful(partial(self._app.put_many, news))
        while not self._are_through(news):
            for task in await careful(partial(queue.claim_many, 3, wait_s=1)):
                try:
                    async with task:
                        self._begin(task.info.id)
                        await careful(task.extend)
                        await careful(partial(task.progress, 0.5))
                except LeaseLost:
                    self._told_lost += 1

    async def _without_trio(self) -> None:
        queue = self._app.queue("blocking")
        news = [queue.new(number, id=self._new()) for number in range(2)]

        def work() -> None:
            door = self._app.blocking.queue("blocking")
            persistent(lambda: self._app.blocking.put_many(news))
            while not self._are_through(news):
                task = persistent(lambda: door.claim(wait_s=1))
                if task is not None:
                    self._begin(task.info.id)
                    held_since = time.monotonic()
                    try:
                        persistent(task.extend)
                        held_since = time.monotonic()
                        persistent(partial(task.progress, 1))
                        persistent(task.succeed)
                    except LeaseLost:  # here nobody watches over leases
                        assert time.monotonic() - held_since > LEASE_S / 2, "it cannot have ended yet"
                        self._lapse()

        await trio.to_thread.run_sync(work)

    def _are_through(self, news: list[Any]) -> bool:
        ids = [one.id for one in news]
        return self._tasks.count_documents({"_id": {"$in": ids}, "status": "succeeded"}) == len(ids)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)

    # --- what it came to ------------------------------------------------------------------------------------------

    def flaws(self) -> list[str]:
        """Say what is not as it should be. For each lease that ended on the way a task may be begun once more, or count
        an attempt that nobody began."""
        found = []
        excused = self._lapsed
        if self._told_lost > excused:
            found.append(f"{self._told_lost} leases were told to be lost, and {excused} had ended")
        stored = {one["_id"]: one for one in self._tasks.find({"status": {"$exists": True}})}
        for id, expected in self._expected.items():
            began = self._began.pop(id, 0)
            counted = began - self._undone[id]
            surplus = counted - expected.attempts
            excused -= max(0, surplus)
            if surplus < 0 or (surplus and excused < 0):
                found.append(f"{id} was begun {counted} times, not {expected.attempts}")
            document = stored.pop(id, None)
            if document is None:
                if expected.kept:
                    found.append(f"{id} is lost")
            elif not expected.kept:
                found.append(f"{id} is still stored, {document['status']}")
            elif document["status"] != expected.status:
                found.append(f"{id} is {document['status']}, not {expected.status}")
            else:
                unbegun = document["attempt"] - counted
                excused -= max(0, unbegun)
                if unbegun < 0 or (unbegun and excused < 0):
                    found.append(f"{id} counts {document['attempt']} attempts, and was begun {counted} times")
        found += [f"{id} was begun, and not put" for id in self._began]
        found += [f"{id} is stored, and not put: {one['status']}" for id, one in stored.items()]
        return found


async def careful(call: Callable[[], Awaitable[T]]) -> T:
    """Call again after an error of the store; bounded by the step."""
    while True:
        try:
            return await call()
        except StoreError:
            await trio.sleep(PAUSE_S)


def persistent(call: Callable[[], T]) -> T:
    """The same in a thread."""
    until = time.monotonic() + LONGEST_S
    while True:
        try:
            return call()
        except StoreError:
            if time.monotonic() > until:
                raise
            time.sleep(PAUSE_S)
