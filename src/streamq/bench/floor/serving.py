"""A consumer of the floor for a load: a thread that reads the change stream, one that claims what has come, a pool that
runs handlers, and one that settles."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

from bson import ObjectId
from pymongo import DeleteMany

from streamq.bench.actor import Stage
from streamq.bench.floor.document import claim_update, fence, guard, new_claim_id
from streamq.bench.floor.picking import AWAIT_MS
from streamq.bench.place import QUEUE, Client, Place, Tasks, collection
from streamq.bench.worked import Worked

T = TypeVar("T")

STAGES: Final[list[Mapping[str, Any]]] = [
    {"$match": {"operationType": "insert", "fullDocument.status": "ready", "fullDocument.queue": QUEUE}},
    {"$project": {"documentKey": 1, "fullDocument.payload": 1}},
]
"""With the payload: what was claimed need not be read."""

Heard = tuple[ObjectId, int, int]
"""A task's id, its number, and when its event was read."""
Taken = tuple[ObjectId, int, int, int, bytes]
"""A task's id, its number, when its event was read, when its claim was answered, and the claim's name."""


class Server:
    """The threads of one consumer and what they hand to each other; None ends a thread."""

    def __init__(self, client: Client, place: Place, handlers: int, handler_s: float) -> None:
        self.worked = Worked()
        self.heard: queue.SimpleQueue[Heard | None] = queue.SimpleQueue()
        self._taken: queue.SimpleQueue[Taken | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Taken | None] = queue.SimpleQueue()
        self._quick = collection(client, place, durable=False)
        self._durable = collection(client, place, durable=True)
        self._handler_s = handler_s
        self._pool = self._handlers = handlers
        self._counting = threading.Lock()
        runs = [threading.Thread(target=self._run) for _ in range(handlers)]
        self._threads = [threading.Thread(target=self._claim), *runs, threading.Thread(target=self._settle)]
        for one in self._threads:
            one.start()

    def close(self) -> None:
        """End the threads, one kind after the other."""
        self.heard.put(None)
        for one in self._threads:
            one.join()

    def _claim(self) -> None:
        for batch in _batches(self.heard):
            ids = [id for id, _, _ in batch]
            claim_id = new_claim_id()
            began_at = time.monotonic_ns()
            matched = self._quick.update_many(guard(ids), claim_update(claim_id)).modified_count
            if matched < len(ids):
                mine = {one["_id"] for one in self._quick.find(fence(ids, claim_id), {"_id": 1})}
                batch = [one for one in batch if one[0] in mine]
            claimed_at = time.monotonic_ns()
            self.worked.note_claim(began_at, claimed_at, len(batch))
            for id, number, heard_at in batch:
                self._taken.put((id, number, heard_at, claimed_at, claim_id))
        for _ in range(self._pool):
            self._taken.put(None)

    def _run(self) -> None:
        while (taken := self._taken.get()) is not None:
            _, number, heard_at, claimed_at, _ = taken
            self.worked.rows.append((number, heard_at, claimed_at, time.monotonic_ns()))
            time.sleep(self._handler_s)
            self._done.put(taken)
        with self._counting:
            self._handlers -= 1
            if not self._handlers:
                self._done.put(None)

    def _settle(self) -> None:
        for batch in _batches(self._done):
            claims: dict[bytes, list[ObjectId]] = {}
            for id, _, _, _, claim_id in batch:
                claims.setdefault(claim_id, []).append(id)
            _delete(self._durable, claims)
            self.worked.note_settled(time.monotonic_ns(), len(batch))


def _delete(durable: Tasks, claims: Mapping[bytes, list[ObjectId]]) -> None:
    durable.bulk_write([DeleteMany(fence(ids, claim_id)) for claim_id, ids in claims.items()], ordered=False)


def _batches(inbox: queue.SimpleQueue[T | None]) -> Iterator[list[T]]:
    """Yield what waits, all of it at once, until None."""
    while (one := inbox.get()) is not None:
        batch = [one]
        ended = False
        while not ended and not inbox.empty():
            more = inbox.get()
            ended = more is None
            if more is not None:
                batch.append(more)
        yield batch
        if ended:
            return


def work_in_groups(stage: Stage, place: Place, count: int, handlers: int, handler_s: float) -> Worked:
    """Run `count` tasks, in groups of what has come, or until it is stopped."""
    with Client(place.uri) as client:
        server = Server(client, place, handlers, handler_s)
        try:
            with collection(client, place, durable=True).watch(STAGES, max_await_time_ms=AWAIT_MS) as stream:
                stage.ready()
                heard = 0
                while heard < count and not stage.stopped.is_set() and time.monotonic() < stage.until:
                    stage.tell(server.worked.settled)
                    event = stream.try_next()
                    if event is not None:
                        heard += 1
                        number = event["fullDocument"]["payload"]["number"]
                        server.heard.put((event["documentKey"]["_id"], number, time.monotonic_ns()))
        finally:
            server.close()
    stage.tell(server.worked.settled)
    return server.worked
