"""What a worker leaves that ends before its time: what it finds is put, another goes on, what came of it is judged."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Final

import trio
from bson import ObjectId

from streamq.core.document import TERMINAL
from streamq.core.invariants import INVARIANTS
from streamq.store.mongo import MongoStore
from tests.databases import Mongo
from tests.faults.orders import ORDERS
from tests.faults.script import Expected, Handlers, Pen, app_on, lines

TRANSACTION_S: Final = 2
"""How long a transaction may be open on the server meanwhile: a minute by default. The lease of a task that is in one
is twice that."""

LONGEST_S: Final = 2 * TRANSACTION_S + 20.0
"""How long after a worker's death all that it left must have ended: its leases have to, the rest is for a machine that
is busy with other tests."""


async def put_all(mongo: Mongo, database: str) -> dict[ObjectId, Expected]:
    """Store what a worker is to find."""
    store = MongoStore(mongo, database)
    nowhere = Pen(Path("/dev/null"))
    made = Handlers(app_on(mongo, database, nowhere), nowhere).tasks()
    await trio.to_thread.run_sync(store.put, [new for new, _ in made])
    return {new.id: expected for new, expected in made}


async def finish(mongo: Mongo, database: str, pen: Pen) -> float:
    """Let another worker go on until all has ended; return how long that took."""
    began_at = time.monotonic()
    app = app_on(mongo, database, pen)
    Handlers(app, pen)
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        with trio.move_on_after(LONGEST_S):
            await all_ended(mongo, database)
        nursery.cancel_scope.cancel()
    return time.monotonic() - began_at


async def all_ended(mongo: Mongo, database: str) -> None:
    """Wait until no task is left to be run."""
    left = {"status": {"$exists": True, "$nin": list(TERMINAL)}}
    while await trio.to_thread.run_sync(mongo[database].tasks.count_documents, left):  # noqa: ASYNC110 - by another process
        await trio.sleep(0.02)


def flaws_of_work(
    mongo: Mongo, database: str, path: Path, tasks: dict[ObjectId, Expected], *, counted: bool = True
) -> list[str]:
    """Say what is not as it should be after a worker's end and another's work; `counted`: it was killed, and what it
    had begun counts as an attempt."""
    began = Counter(ObjectId(words[1]) for words in lines(path) if words[0] == "began")
    lapsed = sum(words == ["lapsed"] for words in lines(path))
    stored = {one["_id"]: one for one in mongo[database].tasks.find({"status": {"$exists": True}})}
    flaws = broken_in(mongo, database)
    for id, task in tasks.items():
        document = stored.get(id)
        if document is None and task.kept:
            flaws.append(f"{task.name} is lost")
        if document is not None and not task.kept:
            flaws.append(f"{task.name} is still stored, {document['status']}")
        if document is not None and task.kept and document["status"] not in task.statuses:
            flaws.append(f"{task.name} is {document['status']}")
        if not task.least <= began[id] <= task.most + lapsed:
            flaws.append(f"{task.name} was begun {began[id]} times")
        if counted and document is not None and document["attempt"] < began[id]:
            flaws.append(f"{task.name} counts {document['attempt']} attempts and was begun {began[id]} times")
    wanted = Counter(id for id, task in tasks.items() if task.name == "pay")
    paid = Counter(one["paid"] for one in mongo[ORDERS].orders.find({"paid": {"$in": list(wanted)}}))
    if paid != wanted:
        flaws.append(f"paid {sum(paid.values())} times, not {sum(wanted.values())}")
    return flaws


def broken_in(mongo: Mongo, database: str) -> list[str]:
    """Name what must hold of every stored task and does not."""
    tasks = mongo[database].tasks
    return [f"not so: {one.what}" for one in INVARIANTS if tasks.count_documents(one.broken)]
