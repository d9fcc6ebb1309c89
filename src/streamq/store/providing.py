"""Seeing that the indexes are there: by making them, or, where the user may not, by looking.

createIndexes ──→ done
    │ refused for want of a privilege
    └→ listIndexes ──→ all are there as they should be: done
           │      └──→ some are not: `AccessRefused`, which names them and says who can make them
           └ refused too (a role that may only insert): what it cannot see it must take for granted
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo.collection import Collection

from streamq.core.indexes import Index
from streamq.errors import AccessRefused, StoreError
from streamq.store.faults import lacks_right, reading
from streamq.store.setup import make_indexes

Document = dict[str, Any]


def provide(
    collection: Collection[Document], indexes: Sequence[Index], deadline: float, *, strictly: bool
) -> list[str]:
    """Make the indexes that are missing, until `deadline`; name those that tasks stored meanwhile do not allow (yet).

    `strictly`: raise `AccessRefused` where making is not allowed, though they may be there, and `StoreError` for what
    would be named. Trips: 1; 2 without the right to make any.
    """
    try:
        collide = make_indexes(collection, indexes, deadline)
    except AccessRefused as refused:
        if strictly or not lacks_right(refused.__cause__):
            raise
        missing = _missing(collection, indexes)
        if missing:
            raise AccessRefused(
                f"{collection.full_name} misses the indexes {', '.join(missing)}, and this user may not make them: run "
                "`streamq init` by one who may (the role of `streamq init --print-role operator`)"
            ) from refused
        return []
    if collide and strictly:
        raise StoreError(
            f"{collection.full_name}: {', '.join(collide)} cannot be made: what must be there once is there twice, "
            "stored while the index was missing; it can once all but one of such tasks have ended"
        )
    return collide


def _missing(collection: Collection[Document], indexes: Sequence[Index]) -> list[str]:
    try:
        with reading("look at the indexes"):
            there = indexes_of(collection)
    except AccessRefused as refused:
        if not lacks_right(refused.__cause__):
            raise
        return []
    return lacking(there, indexes)


def indexes_of(collection: Collection[Document]) -> dict[str, Document]:
    """Return the indexes that are there, by name; none of a collection that is not. Raises the driver's errors."""
    return {str(one["name"]): dict(one) for one in collection.list_indexes()}


def lacking(there: Mapping[str, Document], indexes: Sequence[Index]) -> list[str]:
    """Name those of `indexes` that are not among `there`, or are others than they should be."""
    return [index.name for index in indexes if index.name not in there or not is_as(there[index.name], index)]


def is_as(there: Mapping[str, Any], index: Index) -> bool:
    """Say whether an index that is there is the one that is needed."""
    return (
        tuple((field, int(way)) for field, way in dict(there["key"]).items()) == index.keys
        and there.get("partialFilterExpression") == index.partial
        and there.get("expireAfterSeconds") == index.expire_after_s
        and bool(there.get("unique", False)) == index.unique
    )
