"""The auditor: `python -m tests.chaos.auditor ORDERS`. Follows the tasks by a change stream of its own and writes down
claims and settlements in the order of the server, as a majority has them; until it is killed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from bson import ObjectId
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from streamq.core.document import TERMINAL
from tests.chaos import event, lifeline, orders
from tests.chaos.history import Pen
from tests.chaos.orders import Orders

MARK: Final = "chaos:mark:"
"""What the ids of the run's own documents begin with: once the auditor has seen one, it has seen all before."""

FIELDS: Final = ("claim_id", "settled_by", "status")
HEARD: Final[list[dict[str, Any]]] = [
    {"$match": {"operationType": {"$in": ["insert", "update", "drop", "rename", "dropDatabase", "invalidate"]}}},
    {
        "$project": {
            "operationType": 1,
            "documentKey": 1,
            **{f"updateDescription.updatedFields.{field}": 1 for field in FIELDS},
        }
    },
]
OPTIONS: Final[dict[str, Any]] = {"heartbeatFrequencyMS": 1_000, "connectTimeoutMS": 2_000, "appname": "chaos-auditor"}
PAUSE_S: Final = 0.1
LOST: Final = 286
"""ChangeStreamHistoryLost."""


class Auditor:
    """Goes on from where it was, whatever breaks, unless the server has forgotten that."""

    def __init__(self, given: Orders, pen: Pen) -> None:
        self._pen = pen
        self._client: MongoClient[dict[str, Any]] = MongoClient(given.uri, **OPTIONS)
        self._tasks = self._client[given.database]["tasks"]
        self._seen: Mapping[str, Any] | None = None
        self._ready = False

    def run(self) -> None:
        """Follow for ever."""
        while True:
            try:
                self._follow()
                self._forget("the stream ended")
            except PyMongoError as error:
                if getattr(error, "code", None) == LOST:
                    self._forget(str(error)[:200])
            time.sleep(PAUSE_S)

    def _follow(self) -> None:
        """Return when the stream is dead."""
        with self._tasks.watch(HEARD, resume_after=self._seen, max_await_time_ms=500) as stream:
            if not self._ready:
                self._ready = True
                print("ready", flush=True)
            while stream.alive:
                change = stream.try_next()
                if change is not None:
                    self._note(change)
                self._seen = stream.resume_token or self._seen

    def _note(self, change: Mapping[str, Any]) -> None:
        id = change.get("documentKey", {}).get("_id")
        if isinstance(id, str) and id.startswith(MARK):
            self._pen.write(event.Marked(at=time.monotonic(), mark=id))
        if not isinstance(id, ObjectId) or change["operationType"] != "update":
            return
        fields = change.get("updateDescription", {}).get("updatedFields", {})
        now = time.monotonic()
        if "claim_id" in fields:
            self._pen.write(event.Given(at=now, id=str(id), claim=bytes(fields["claim_id"]).hex()))
        if "settled_by" in fields:
            by, status = bytes(fields["settled_by"]).hex(), str(fields.get("status"))
            self._pen.write(event.Closed(at=now, id=str(id), by=by, status=status))
        elif fields.get("status") in TERMINAL:
            self._pen.write(event.Lapsed(at=now, id=str(id), status=str(fields["status"])))

    def _forget(self, why: str) -> None:
        self._seen = None
        self._pen.write(event.Gap(at=time.monotonic(), why=why))


def main() -> None:
    """Run it."""
    lifeline.hold()
    given = orders.given()
    Auditor(given, Pen(given.path)).run()


if __name__ == "__main__":
    main()
