"""Which queue a free slot is for, where several queues share a pool of slots. Pure.

By weight it is stride scheduling (C. Waldspurger, W. Weihl, "Stride Scheduling", MIT, 1995): each queue has a pass that
a started task moves on by 1 / weight, and the queue furthest behind is next. A queue that had nothing to do for a while
comes back where the others are: it saves up no turns, and one that has something to do is never left out for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from streamq.core.options import require_count, require_queue
from streamq.errors import OptionInvalid

MOST_SHARED: Final = 500
"""Slots handed out in one decision: as many as one claim takes. The rest are decided upon next."""

MOST_WEIGHT: Final = 1_000


class Shared(msgspec.Struct, frozen=True):
    """One pool of slots for several queues: made by `Shared.by_weight` or `Shared.in_order`, given to `app.work`."""

    queues: tuple[str, ...]
    weights: tuple[int, ...]  # none: strictly in order
    slots: int

    @staticmethod
    def by_weight(weights: Mapping[str, int], *, slots: int) -> Shared:
        """Share `slots` so that, while all have tasks, queues start them in proportion to their weights (1 to 1,000).

            await app.work(Shared.by_weight({"high": 5, "low": 1}, slots=16))

        No queue starves; a queue without tasks leaves its slots to the others. Raises `OptionInvalid`.
        """
        if not isinstance(weights, Mapping) or not weights:
            raise OptionInvalid("weights", weights, "a dict of queue names and their weights")
        for queue, weight in weights.items():
            require_count(weight, f"weights[{queue!r}]", most=MOST_WEIGHT)
        return Shared(_names(list(weights)), tuple(weights.values()), require_count(slots, "slots"))

    @staticmethod
    def in_order(queues: Sequence[str], *, slots: int) -> Shared:
        """Give `slots` to the first of `queues` that has tasks: a later one runs only what the earlier ones leave free.

        A later queue waits for as long as an earlier one has tasks. Raises `OptionInvalid`.
        """
        if isinstance(queues, str) or not isinstance(queues, Sequence) or not queues:
            raise OptionInvalid("queues", queues, "a list of queue names, the most urgent first")
        return Shared(_names(queues), (), require_count(slots, "slots"))


def _names(queues: Sequence[str]) -> tuple[str, ...]:
    names = tuple(require_queue(queue) for queue in queues)
    if len(set(names)) < len(names):
        raise OptionInvalid("queues", list(names), "each queue once")
    return names


class Turns(msgspec.Struct, frozen=True):
    """How far each queue has come. `now` is the pass of the queue that was served last: who comes back starts there."""

    passes: tuple[float, ...]
    now: float = 0.0


def first_turns(shared: Shared) -> Turns:
    """Return the turns of a pool that has started nothing yet."""
    return Turns((0.0,) * len(shared.queues))


def shares(shared: Shared, turns: Turns, wanting: Sequence[bool], free: int) -> list[int]:
    """Return how many of `free` slots each queue gets; those not `wanting` any get none."""
    given = [0] * len(shared.queues)
    if free <= 0 or not any(wanting):
        return given
    if not shared.weights or sum(wanting) == 1:
        given[list(wanting).index(True)] = free
        return given
    passes = {place: max(turns.passes[place], turns.now) for place, wants in enumerate(wanting) if wants}
    for _ in range(min(free, MOST_SHARED)):
        place = min(passes, key=lambda one: (passes[one], one))
        given[place] += 1
        passes[place] += 1 / shared.weights[place]
    return given


def charged(shared: Shared, turns: Turns, place: int, count: int) -> Turns:
    """Return the turns after the queue at `place` was given `count` slots, or gave them back unused (negative)."""
    if not shared.weights or not count:
        return turns
    at = max(turns.passes[place], turns.now) if count > 0 else turns.passes[place]
    moved = at + count / shared.weights[place]
    passes = (*turns.passes[:place], moved, *turns.passes[place + 1 :])
    return Turns(passes, max(turns.now, at) if count > 0 else turns.now)
