"""The features in use, and their indexes, on the real server.

    put ── announce (a document in a collection of its own, with majority) ── insert
                              └→ tick of any scheduler → the indexes are made → its looks take the feature in

Announced is before anything is stored that takes part, and never inside a caller's transaction: making an index waits
for transactions that have touched the collection, so a put must not wait for an index. What is announced and then not
put costs its indexes and nothing else.

A scheduler looks for what it has an index for: without one a look would read every task. An index that somebody made
by hand (`streamq check` does) counts as well.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Set
from typing import Any, Final

import pymongo
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from streamq.core import queries
from streamq.core.features import FEATURES, Feature, named
from streamq.core.indexes import INDEXES, Index
from streamq.errors import AccessRefused, StoreUnavailable
from streamq.store.faults import lacks_right, reading, writing
from streamq.store.providing import indexes_of, lacking, provide

Document = dict[str, Any]

FIRST_WAIT_S: Final = 2.0
LONGEST_WAIT_S: Final = 300.0
"""How long the server may take to make indexes, at the first try and at most: each try that ends without doubles it.
Short at first, because an index waits until open transactions that have touched the collection are over, and all who
come to the collection meanwhile wait behind it."""


def own_of(features: Set[Feature]) -> tuple[Index, ...]:
    """Return the indexes that only `features` need."""
    return tuple(index for index in INDEXES if index.feature in features)


class Features:
    """What this process knows of the features of one collection. Thread-safe: what it knows only grows."""

    def __init__(self, durable: Collection[Document], in_use: Collection[Document], timeout_s: float) -> None:
        self._durable = durable
        self.in_use = in_use
        self._timeout_s = timeout_s
        self._told: frozenset[Feature] = frozenset()
        self._sought: frozenset[Feature] = frozenset()
        self._made: frozenset[Feature] | None = None
        self._wait_s = FIRST_WAIT_S
        self.denied: frozenset[Feature] = frozenset()

    def announce(self, features: Set[Feature]) -> None:
        """Say that tasks which take part are about to be put. Raises `StoreUnavailable`, `OutcomeUnknown`,
        `AccessRefused`: no task has been stored then. Trips: 1 for each that this process has not announced yet."""
        for feature in features - self._told:
            with (
                writing(f"announce that {feature} is in use"),
                pymongo.timeout(self._timeout_s),
                contextlib.suppress(DuplicateKeyError),
            ):
                self.in_use.insert_one({"_id": feature})  # a bare insert: a producer may do nothing else
            self._told |= {feature}

    def announced(self) -> frozenset[Feature]:
        """Ask which features are in use; none, as far as a user can tell who may not ask. Trips: 1."""
        try:
            with reading("ask which features are in use"), pymongo.timeout(self._timeout_s):
                return named(one["_id"] for one in self.in_use.find(queries.features_in_use(), {"_id": 1}))
        except AccessRefused as refused:
            if not lacks_right(refused.__cause__):
                raise
            return frozenset()

    def made(self) -> frozenset[Feature]:
        """Say which features have all their indexes. Trips: 1 at the first call."""
        if self._made is None:
            with reading("list the indexes"), pymongo.timeout(self._timeout_s):
                there = indexes_of(self._durable)
            self._made = frozenset(feature for feature in FEATURES if not lacking(there, own_of({feature})))
        return self._made

    def look_again(self) -> None:
        """Find out whether somebody has made the indexes that this user may not make. Trips: 0 when all are there."""
        if self.denied:
            self._made = None
            self.denied -= self.made()

    def make(self, features: Set[Feature]) -> bool:
        """See to it that `features` have their indexes, which takes the server as long as to read the collection once;
        say whether it has. If not, it took too long, or tasks that are stored do not allow it yet: try again later.
        Raises `AccessRefused`, and notes it in `denied`. Trips: 1, or none when this process knows them made."""
        self._sought |= features
        missing = features - self.made()
        if not missing:
            return True
        try:
            with pymongo.timeout(self._wait_s):
                until = time.monotonic() + self._wait_s
                if provide(self._durable, own_of(missing), until, strictly=False):
                    return False
        except AccessRefused:
            self.denied |= missing
            raise
        except StoreUnavailable as error:
            if not getattr(error.__cause__, "timeout", False):
                raise
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
            return False
        self._made = self.made() | missing
        return True

    def use(self, features: Set[Feature]) -> None:
        """Announce `features` and make their indexes, before the first call that needs them. Raises `StoreUnavailable`
        when the server takes too long for it: try again. Trips: 0 when this process has done so before."""
        if self._made is not None and features <= self._made and features <= self._told:
            return
        self.announce(features)
        if not self.make(features):
            raise StoreUnavailable(
                f"the indexes of {', '.join(sorted(features))} could not be made in time: the collection is large, or "
                "a transaction is open in it; it is tried again"
            )

    def known(self) -> frozenset[Feature]:
        """Say which features are in use as far as this process has heard, in whatever collection it was. Trips: 0."""
        return self._told | self._sought | (self._made or frozenset())

    def forget(self) -> None:
        """Know nothing any more: the collection may be another one now."""
        self._told, self._made, self.denied = frozenset(), None, frozenset()
