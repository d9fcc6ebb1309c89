"""Who tries first: with several idle processes one new task must not cost a claim in each.

Every process works out the same order of the live members for a task (rendezvous hashing: whose hash with the task's id
is highest comes first) and finds its own place in it. The first claims at once, the others stand by and look after a
while whether the task is still there, in tiers that double:

    place   0    1 2    3 … 6    7 … 14    15 … 30
    after   0    10     30       60        100 ms

so a first that is dead, or busy, costs milliseconds and never a task. Who comes is told by the stream; who has gone is
known at the next heartbeat, and until then the others look after its tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from bson import ObjectId

from streamq.core.wake import Wake

TIER_S: Final = 0.01
"""The first tier's wait; the k-th tier waits k (k + 1) / 2 times as long. A claim by the first takes 2 to 8 ms from the
event on, with 16 processes on two cores (docs/measurements.md); the later tiers wait longer so that one look serves
several tasks."""

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


def stand_by_s(place: int) -> float:
    """Return how long the process at `place` waits before it looks."""
    tier = (place + 1).bit_length() - 1
    return TIER_S * tier * (tier + 1) / 2


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
        if not isinstance(queue, str):
            continue
        names = one.get("only")
        only = frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else None
        before = read.get(queue, frozenset())
        read[queue] = None if only is None or before is None else before | only
    return read


class StandBy:
    """What others are to try first, until this process looks. Pure: the caller says what time it is."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[ObjectId, tuple[float, Wake]] = {}

    def hear(self, wake: Wake, look_at: float) -> bool:
        """Take a wake in; False when there is no room."""
        assert wake.id is not None  # it has no place without
        if wake.id not in self._waiting and len(self._waiting) >= self._most:
            return False
        self._waiting[wake.id] = look_at, wake
        return True

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_at(self) -> float:
        """When to look next."""
        return min((look_at for look_at, _ in self._waiting.values()), default=float("inf"))

    @property
    def ids(self) -> list[ObjectId]:
        """What to look at: all, since one look serves all."""
        return list(self._waiting)

    def seen(self, asked: Iterable[ObjectId], there: Iterable[ObjectId], now: float) -> list[Wake]:
        """Take in what of those `asked` about is still there; return what this process is to try now."""
        left = set(there)
        due = []
        for id in asked:
            look_at, wake = self._waiting[id]
            if id in left and look_at > now:
                continue  # it is another's turn yet
            del self._waiting[id]
            if id in left:
                due.append(wake)
        return due

    def clear(self) -> None:
        """Forget all: the queue itself is looked at."""
        self._waiting.clear()
