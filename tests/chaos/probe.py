"""The probe: `python -m tests.chaos.probe ORDERS`. Writes with majority by a client made for each write, until it is
killed: what it takes is the server's own outage.

Several at a time, each with patience: one that was on its way as the primary froze hangs until its limit, and a set
that has just elected may take two seconds for a majority.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

from tests.chaos import event, lifeline, orders
from tests.chaos.history import Pen
from tests.chaos.orders import Orders

AT_ONCE: Final = 3
PAUSE_S: Final = 0.75
OPTIONS: Final[dict[str, Any]] = {
    "serverSelectionTimeoutMS": 5_000,
    "connectTimeoutMS": 1_000,
    "socketTimeoutMS": 5_000,
    "retryWrites": False,
    "appname": "chaos-probe",
}
DURABLE: Final = WriteConcern("majority", wtimeout=5_000, j=True)


def probe(given: Orders, pen: Pen) -> None:
    """Write for ever."""
    while True:
        sent_at = time.monotonic()
        try:
            with MongoClient[dict[str, Any]](given.uri, **OPTIONS) as client:
                client[given.database].get_collection("probe", write_concern=DURABLE).insert_one({})
        except PyMongoError:
            continue
        pen.write(event.Probed(at=time.monotonic(), sent_at=sent_at))
        time.sleep(PAUSE_S)


def main() -> None:
    """Run it."""
    lifeline.hold()
    given = orders.given()
    pen = Pen(given.path)
    for number in range(AT_ONCE):
        threading.Timer(number * PAUSE_S / AT_ONCE, probe, (given, pen)).start()
    print("ready", flush=True)


if __name__ == "__main__":
    main()
