"""Who tries first: with several idle processes one new task must not cost a claim in each.

Every process works out the same order of the live members for a task (rendezvous hashing: whose hash with the task's id
is highest comes first) and finds its own place in it. The first claims at once, the others stand by and look after a
while whether the task is still there, in tiers that double:

    place     0    1     2 3    4 … 7    8 … 15    16 … 31
    after     0    10    20     30       40        50 ms
    at most   0    30    160    240      320       400 ms

so a first that is dead, or busy, costs milliseconds and never a task. Who comes is told by the stream; who has gone is
known at the next heartbeat, and until then the others look after its tasks.

A look costs this process and the server as much as hearing of the task did, and where all are idle all but none of them
finds anything: then each process looks later and later, up to what the last line says. It looks soon again once it has
got a task that was another's to try: others are busy, or dead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from bson import ObjectId

from streamq.core.wake import Wake

TIER_S: Final = 0.01
"""The first tier's wait; the k-th tier waits k times as long. A claim by the first takes 2 to 8 ms from the event on,
with 16 processes on two cores (docs/measurements.md)."""

MOST_PATIENCE: Final = 8.0
"""How many times as long the later tiers wait at most: chosen so that one look serves several tasks at some ten a
second, and that a task whose first ones have all died meanwhile is late by less than half a second, once."""

MOST_PATIENCE_OF_SECOND: Final = 3.0
"""The same of the first tier: a first that is dead costs every sixteenth task of sixteen processes this wait."""

MASK: Final = 2**64 - 1

Order = tuple[tuple[int, frozenset[str] | None], ...]
"""Of the others that serve one queue: a number of their own, and which handlers they know (None: any task)."""


class Rendezvous:
    """The order as one process sees it. Empty, it is alone."""

    def __init__(self) -> None:
        self._me = 0
        self._rows: dict[str, object] = {}
        self._others: Mapping[str, Order] = {}

    def join(self, me: str, others: Iterable[tuple[str, object]]) -> None:
        """Learn who else is there: rows' ids, each with what its row says that it serves."""
        self._me = _number(me)
        self._rows = dict(others)
        self._work_out()

    def add(self, id: str, serves: object) -> None:
        """Learn of one who has come since."""
        self._rows[id] = serves
        self._work_out()

    def _work_out(self) -> None:
        by_queue: dict[str, list[tuple[int, frozenset[str] | None]]] = {}
        for id, serves in self._rows.items():
            for queue, only in _read(serves).items():
                by_queue.setdefault(queue, []).append((_number(id), only))
        self._others = {queue: tuple(order) for queue, order in by_queue.items()}

    def place(self, wake: Wake) -> int:
        """Return this process's place in the order for the task of `wake`. Any thread."""
        others = self._others.get(wake.queue)
        if not others or wake.id is None:
            return 0
        key = _key(wake.id)
        mine = _mixed(key ^ self._me)
        return sum(_mixed(key ^ number) > mine for number, only in others if _knows(only, wake))


def stand_by_s(place: int, patience: float = 1.0) -> float:
    """Return how long the process at `place` waits before it looks."""
    tier = place.bit_length()
    return TIER_S * tier * (patience if tier > 1 else min(patience, MOST_PATIENCE_OF_SECOND))


def calmer(patience: float) -> float:
    """Return the patience after a look, or a claim after one, that came after another process had taken the task."""
    return min(patience * 1.25, MOST_PATIENCE)


def keener(patience: float) -> float:
    """Return the patience of one that has got a task which others were to try first."""
    return max(patience / 4, 1.0)


def _knows(only: frozenset[str] | None, wake: Wake) -> bool:
    # The handler is known of new tasks only.
    return only is None or not wake.is_new or wake.task in only


def _key(id: object) -> int:
    # Another producer may store any id.
    return int.from_bytes(id.binary[4:]) if isinstance(id, ObjectId) else _number(repr(id))


def _number(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest())


def _mixed(x: int) -> int:
    """Spread each bit over all: ids that were made one after the other differ in a few."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def _read(serves: object) -> dict[str, frozenset[str] | None]:
    """Read what a row says its process serves: one entry an intake. Anyone may have written it."""
    read: dict[str, frozenset[str] | None] = {}
    for one in serves if isinstance(serves, list | tuple) else ():
        queue = one.get("queue") if isinstance(one, Mapping) else None
        if type(queue) is not str:
            continue
        names = one.get("only")
        only = frozenset(name for name in names if type(name) is str) if isinstance(names, list) else None
        before = read.get(queue, frozenset())
        read[queue] = None if only is None or before is None else before | only
    return read
