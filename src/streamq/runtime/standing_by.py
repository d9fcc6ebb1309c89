"""Standing by: the tasks that other processes are to try first, until this one looks whether they are still there.

Heard of in the feed's thread, looked at by trio. Trio is poked only when it would look too late, for waking it costs
more than all the rest of hearing: with sixteen idle processes fifteen hear of a task that is none of theirs.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from bson import ObjectId

from streamq.core.rendezvous import calmer, keener, stand_by_s
from streamq.core.wake import Wake

MOST_AMONG: Final = 32
"""Tasks among which one claim takes the first. With more the queue itself is looked at."""


class Waiting(NamedTuple):
    """A wake, and when this process looks after its task."""

    look_at: float
    place: int
    wake: Wake


class StandingBy:
    """One intake's. The caller says what time it is. Any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._waiting: dict[ObjectId, Waiting] = {}
        self._tried: set[ObjectId] = set()
        self._patience = 1.0
        self._looking_at = math.inf  # what trio has set its timer to

    def hear(self, wake: Wake, place: int, now: float) -> bool | None:
        """Take in the wake of a task for which this process has that place; 0: look at once. Say whether the look must
        be brought forward; None when there is no room."""
        assert wake.id is not None  # it has no place without
        with self._lock:
            if wake.id not in self._waiting and len(self._waiting) >= self._most:
                return None
            look_at = now + stand_by_s(place, self._patience)
            self._waiting[wake.id] = Waiting(look_at, place, wake)
            return look_at < self._looking_at

    def __len__(self) -> int:
        return len(self._waiting)

    def with_first_of(self, wake: Wake) -> tuple[tuple[ObjectId, ...], bool] | None:
        """Return the ids among which one claim is to take the first, so that `wake` does not come before what came
        before it, and whether all are plain; None when one claim is not enough."""
        assert wake.id is not None
        with self._lock:
            others = [one.wake for id, one in self._waiting.items() if id != wake.id]
        # One that must be claimed with majority, or of which that is not known, such a claim would leave out.
        if len(others) >= MOST_AMONG or wake.durable or any(one.durable or not one.is_new for one in others):
            return None
        ids = (*(one.id for one in others if one.id is not None), wake.id)
        return ids, all(one.is_plain for one in (*others, wake))

    def next_look(self) -> float:
        """Return when to look next, and note that trio will."""
        with self._lock:
            self._looking_at = min((one.look_at for one in self._waiting.values()), default=math.inf)
            return self._looking_at

    @property
    def waiting(self) -> Mapping[ObjectId, Waiting]:
        """What to look at, as it is now: all, since one look serves all."""
        with self._lock:
            return dict(self._waiting)

    def seen(self, asked: Mapping[ObjectId, Waiting], there: Iterable[ObjectId], now: float) -> list[Wake]:
        """Take in what of what was `asked` about is still there; return what this process is to try now.

        A task that was told of again meanwhile waits for the next look: it may have been taken before the answer, and
        given back behind it.
        """
        left = set(there)
        due = []
        in_vain = False
        with self._lock:
            for id, one in asked.items():
                if self._waiting.get(id) is not one:
                    continue
                look_at, place, wake = one
                if id in left and look_at > now:
                    continue  # it is another's turn yet
                del self._waiting[id]
                if id in left:
                    due.append(wake)
                    self._tried.add(id)
                elif place and look_at <= now:
                    in_vain = True
            if in_vain:
                self._patience = calmer(self._patience)
        return due

    def tried(self, ids: Iterable[ObjectId], obtained: Iterable[ObjectId]) -> None:
        """Take in what a claim of `ids` has obtained: whether those before this process were away, or merely slow."""
        with self._lock:
            asked = self._tried.intersection(ids)
            if not asked:
                return
            self._tried -= asked
            self._patience = calmer(self._patience) if asked.isdisjoint(obtained) else keener(self._patience)

    def forget(self, ids: Iterable[ObjectId]) -> None:
        """Look no more at what was claimed."""
        with self._lock:
            for id in ids:
                self._waiting.pop(id, None)

    def clear(self) -> None:
        """Forget all: the queue itself is looked at."""
        with self._lock:
            self._waiting.clear()
            self._tried.clear()
