"""What the programs run that are killed at a call to the server: a worker's tasks, and a producer's puts.

Both write down what happened to them in a file of their own, by one `write` each, so that nothing is lost with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
from bson import ObjectId
from pymongo.errors import PyMongoError

from streamq import NewTask, Retry, StreamQ, TransactionAborted, current_task, progress, transaction
from tests.databases import Mongo
from tests.faults.lapses import Lapses
from tests.faults.orders import ORDERS

LEASE_S: Final = 2.0
TIMEOUT_S: Final = 5.0

CHUNKS: Final = 1_200
"""Tasks in the put of many: two inserts."""


class Expected(msgspec.Struct, frozen=True):
    """How a task ends, whether it is stored then, and how often it is begun when its worker is killed once."""

    name: str
    statuses: tuple[str, ...] = ("succeeded",)
    kept: bool = True
    least: int = 1
    most: int = 2


class Pen:
    """An append-only file of lines."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, *words: object) -> None:
        """Write one line."""
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


def lines(path: Path) -> Iterator[list[str]]:
    """Read what was written, as words."""
    if path.exists():
        for line in path.read_text().splitlines():
            yield line.split()


def app_on(client: Mongo, database: str, pen: Pen, lease_s: float = LEASE_S) -> StreamQ:
    """Make the app of either."""
    app = StreamQ(client=client, database=database, lease_s=lease_s, timeout_s=TIMEOUT_S, safety_scan_s=None)
    app.journal = Lapses(lambda leases: pen.write("lapsed"))
    return app


class Flaw(Exception):
    """As the script wants it."""


class Handlers:
    """Of a worker: the one that is killed, and the one that goes on."""

    def __init__(self, app: StreamQ, pen: Pen, ended: Callable[[], None] = lambda: None) -> None:
        orders = app.client[ORDERS].orders

        def begin() -> ObjectId:
            pen.write("began", current_task().id)
            return current_task().id

        @app.task
        async def job(text: str) -> str:
            begin()
            ended()
            return text

        @app.task(retry=Retry(first_s=0.02))
        async def flaky(text: str) -> str:
            begin()
            if current_task().attempt == 1:
                raise Flaw
            ended()
            return text

        @app.task(retry=Retry(max_attempts=1))
        async def once(text: str) -> str:
            begin()
            ended()
            return text

        @app.task
        async def slow(text: str) -> str:
            begin()
            await progress(0.5)
            await trio.sleep(LEASE_S / 3 + 0.1)  # past a beat of the keeper
            ended()
            return text

        @app.task
        async def pay(text: str) -> None:
            id = begin()
            try:
                async with transaction() as session:
                    await trio.to_thread.run_sync(lambda: orders.insert_one({"paid": id}, session=session))
            except PyMongoError:
                raise TransactionAborted("as the server said") from None
            ended()

        @app.task(queue="narrow")
        async def narrow(text: str) -> str:
            begin()
            ended()
            return text

        app.limit("narrow", running=1)
        self.job, self.flaky, self.once, self.slow, self.pay, self.narrow = job, flaky, once, slow, pay, narrow

    def tasks(self) -> list[tuple[NewTask, Expected]]:
        """Return the tasks that the worker finds."""
        parent = self.job.options(delay_s=0.05).new("parent")
        return [
            (self.job.new("plain"), Expected("plain")),
            (self.job.new("plain"), Expected("plain")),
            (self.flaky.new("flaky"), Expected("flaky", most=3)),  # its first attempt may end before it has begun
            # Killed before it has begun, or before its end is stored, it ends in failed: it must not run twice.
            (self.once.new("once"), Expected("once", ("succeeded", "failed"), least=0, most=1)),
            (self.slow.new("slow"), Expected("slow")),
            (self.pay.new("pay"), Expected("pay")),
            (self.job.options(keep_s=0).new("gone"), Expected("gone", kept=False)),
            (self.job.options(delay_s=0.1).new("later"), Expected("later")),
            (parent, Expected("parent")),
            (self.job.options(after=[parent.id]).new("child"), Expected("child")),
            (self.narrow.new("narrow"), Expected("narrow")),
            (self.narrow.new("narrow"), Expected("narrow")),
        ]


def declared(app: StreamQ, database: str, pen: Pen) -> trio.Event:
    """Declare the handlers; return what is set when all that is stored has been run."""
    left = app.client[database].tasks.count_documents({"status": {"$exists": True}})
    through = trio.Event()

    def ended() -> None:
        nonlocal left
        left -= 1
        if not left:
            through.set()

    Handlers(app, pen, ended)
    return through


async def work(app: StreamQ, database: str, pen: Pen) -> None:
    """Run all that there is, then stop in good order."""
    stop = declared(app, database, pen)
    async with app, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: app.work(concurrency=3, stop=stop, task_status=task_status))


async def produce(app: StreamQ, database: str, pen: Pen) -> None:
    """Put tasks in every way there is; write down what is tried before, and what was acknowledged behind."""
    queue = app.queue("q")
    orders = app.client[ORDERS].orders
    ids = [ObjectId() for _ in range(6)]

    def order(id: ObjectId) -> None:
        def both(session: Any) -> None:
            orders.insert_one({"_id": id}, session=session)
            app.blocking.put(queue.new("ordered", id=id), session=session)

        with app.client.start_session() as session:
            session.with_transaction(both)

    async with app:
        pen.write("tried", ids[0])
        await queue.put("one", id=ids[0])
        pen.write("stored", ids[0])
        pen.write("tried", ids[1])
        await queue.put("unique", id=ids[1], unique="k", expires_in_s=3600)
        pen.write("stored", ids[1])
        pen.write("tried", ids[2])
        await trio.to_thread.run_sync(order, ids[2])
        pen.write("stored", ids[2])
        pen.write("tried", *ids[3:])
        await app.put_many([queue.new("many", id=id, tag="many") for id in ids[3:]])
        pen.write("stored", *ids[3:])
        many = [ObjectId() for _ in range(CHUNKS)]
        pen.write("tried", *many)
        await app.put_many(queue.new("chunk", id=id) for id in many)
        pen.write("stored", *many)
        pen.write("tried", one := ObjectId())
        await trio.to_thread.run_sync(lambda: app.blocking.queue("q").put("blocking", id=one))
        pen.write("stored", one)
