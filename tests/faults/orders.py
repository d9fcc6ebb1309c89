"""The orders that scripts store beside their tasks: one database for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.databases import Mongo, drop_collections

ORDERS: Final = "test_faults_orders"
"""Its name: prepared databases are lent again only if they have no other collections."""


@contextmanager
def taken(mongo: Mongo) -> Iterator[None]:
    """Have the database for the body."""
    mongo[ORDERS].create_collection("orders")  # or transactions would make it, one against the other
    yield
    drop_collections(mongo, ORDERS)
