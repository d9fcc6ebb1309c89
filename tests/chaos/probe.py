"""The probe: `python -m tests.chaos.probe ORDERS`. Writes with majority by a client made for each write, until it is
killed: what it takes is the server's own outage."""

from __future__ import annotations

import time
from typing import Any, Final

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

from tests.chaos import event, lifeline, orders
from tests.chaos.history import Pen

PAUSE_S: Final = 0.25
OPTIONS: Final[dict[str, Any]] = {
    "serverSelectionTimeoutMS": 1_000,
    "connectTimeoutMS": 1_000,
    "socketTimeoutMS": 2_000,
    "retryWrites": False,
    "appname": "chaos-probe",
}
DURABLE: Final = WriteConcern("majority", wtimeout=2_000, j=True)


def main() -> None:
    """Run it."""
    lifeline.hold()
    given = orders.given()
    pen = Pen(given.path)
    print("ready", flush=True)
    while True:
        sent_at = time.monotonic()
        try:
            with MongoClient[dict[str, Any]](given.uri, **OPTIONS) as client:
                client[given.database].get_collection("probe", write_concern=DURABLE).insert_one({})
        except PyMongoError:
            continue
        pen.write(event.Probed(at=time.monotonic(), sent_at=sent_at))
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
