"""Hints: new tasks that wakes have named and that nobody here has tried to claim yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from bson import ObjectId

from streamq.core.wake import Wake

MOST_HINTS: Final = 1_000
"""Ids kept; past it the queue is simply looked at, which finds them."""

MOST_SEEN: Final = 4_000
"""Ids remembered as heard of. Forgetting one too early costs a claim that finds nothing."""


class Hints:
    """One intake's. A put of this process is told twice, by the put and by the stream; what was claimed from the head
    of the queue is told later too. Such echoes must not cost a claim each, yet no second telling may be taken for an
    echo blindly: a task that was deleted at its success may be put again under its id."""

    def __init__(self, is_held: Callable[[ObjectId], bool]) -> None:
        self._is_held = is_held
        self._waiting: dict[ObjectId, Wake] = {}
        self._asking: frozenset[ObjectId] = frozenset()
        self._seen: set[ObjectId] = set()
        self._seen_before: set[ObjectId] = set()

    @property
    def ids(self) -> tuple[ObjectId, ...]:
        """What is to be claimed."""
        return tuple(self._waiting)

    @property
    def has_any(self) -> bool:
        """Say whether something is to be claimed."""
        return bool(self._waiting)

    @property
    def durable(self) -> bool:
        """Say whether one of them must be claimed with majority."""
        return any(wake.durable for wake in self._waiting.values())

    def hear(self, wake: Wake) -> bool:
        """Take a wake in. False: what to do about it is not known, the queue itself must be looked at."""
        id = wake.id
        if id is None or not wake.is_new or len(self._waiting) >= MOST_HINTS:
            # Of a task that was there before it is not known how it must be claimed: the claim from the head knows.
            return False
        if id in self._waiting or id in self._asking or self._is_held(id):
            return True
        if self.was_heard(id):
            return False
        self.remember((id,))
        self._waiting[id] = wake
        return True

    def was_heard(self, id: ObjectId) -> bool:
        """Say whether a task was heard of or claimed lately. Any thread."""
        return id in self._seen or id in self._seen_before

    def take(self) -> None:
        """Begin a claim: what was waiting is being asked for."""
        self._asking = frozenset(self._waiting)
        self._waiting = {}

    def asked(self) -> None:
        """The claim has been answered."""
        self._asking = frozenset()

    def remember(self, ids: Iterable[ObjectId]) -> None:
        """Note ids as heard of, and wait for them no more."""
        # Two generations: forgetting the older at once costs nothing an id.
        self._seen.update(ids)
        if self._waiting:
            for id in ids:
                self._waiting.pop(id, None)
        if len(self._seen) > MOST_SEEN:
            self._seen_before, self._seen = self._seen, set()
