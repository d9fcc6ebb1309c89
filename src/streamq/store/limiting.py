"""Claiming from a queue with limits: which of the tasks at its head may start now. Written once for every store.

    head of the queue → a slot of its key? → a token of its key? → a slot and a token of the queue? → claim
                            │ no                 │ no                     │ no
                        held up until        delayed until            stays ready; the queue
                        a slot is free       its token                waits

What a key's limit holds up leaves the head, so that it does not stand in the way of other keys; it keeps its place
(`seq`) for when it comes back. Tokens are taken for tasks that were seen, so a claim that finds nothing costs none, and
those of tasks that others were quicker to claim are given back. A process that dies between taking tokens and claiming
loses them: the rate is then kept with room to spare.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from streamq.core.claim import Ask
from streamq.core.limits import Limits, Rate, free_slots, key_bucket, key_slot, queue_bucket, waits_s
from streamq.core.moves.claim import Place
from streamq.core.moves.delay import BACKSTOP_S
from streamq.errors import ClaimUnknown, StoreError

Found = Mapping[str, Any]

MOST_LOOKS: Final = 10
"""How often one call looks at the head again, after limits of keys have moved tasks away from it."""

MOST_A_CLAIM: Final = 100
"""Tasks that one look considers: each may cost a token of its own key, which is a trip of its own."""


class PutOff(msgspec.Struct, frozen=True):
    """A task that a limit of its key holds up: for `delay_s`, or (`key` is set) until a slot of its key is free."""

    found: Found
    delay_s: float
    key: str | None = None


class Tokens(msgspec.Struct, frozen=True):
    """What a bucket gave, and what it has left."""

    granted: int
    left: float


class Shelf(Protocol):
    """What a store does for this: single steps, each atomic."""

    def head(self, limit: int) -> Sequence[Found]:
        """Read the first `limit` ready tasks, in claim order."""

    def slots(self) -> Sequence[int]:
        """Read which slots of the queue are taken."""

    def key_slots(self) -> Mapping[str, Sequence[int]]:
        """Read which slots of each key are taken."""

    def unhold(self, limit: int, taken: Mapping[str, Sequence[int]]) -> None:
        """See to it that of each key's held up tasks the first are back, as many as slots are free."""

    def tokens(self, bucket: str, rate: Rate, wanted: int) -> Tokens:
        """Take up to `wanted` tokens."""

    def give_back(self, bucket: str, rate: Rate, unused: int) -> None:
        """Give tokens back."""

    def put_off(self, tasks: Sequence[PutOff]) -> None:
        """Delay those that are still ready."""

    def take(self, chosen: Sequence[tuple[Found, Place]]) -> set[Any]:
        """Claim what is still as it was read and whose slots are free; return the ids obtained."""


class Taken(msgspec.Struct):
    """What a limited claim came to. `again_s`: how long until the queue's next token, when it waits for one."""

    found: list[Found] = []
    more: bool = False
    again_s: float | None = None


def claim(shelf: Shelf, ask: Ask, limits: Limits) -> Taken:
    """Claim what may start now, at most `ask.limit`. Trips: 3 to 6, and one for each key with a rate.

    Raises `ClaimUnknown` for all of it when the outcome of a part is not known. Another error is raised only while
    nothing was obtained: what an earlier look has claimed would be left to its lease.
    """
    taken = Taken()
    try:
        _claim(shelf, ask, limits, taken)
    except ClaimUnknown as error:
        raise _with(error, taken.found) from error
    except StoreError:
        if not taken.found:
            raise
        taken.more = True  # the next claim meets it
    return taken


def _with(error: ClaimUnknown, found: Sequence[Found]) -> ClaimUnknown:
    ids = dict.fromkeys([*(one["_id"] for one in found), *error.ids])
    return ClaimUnknown(error.queue, error.claim_id, tuple(ids), error.settles_in_s, error.reason)


def _claim(shelf: Shelf, ask: Ask, limits: Limits, taken: Taken) -> None:
    most = min(ask.limit, MOST_A_CLAIM)
    if limits.key_running is not None:
        shelf.unhold(limits.key_running, shelf.key_slots())
    for _ in range(MOST_LOOKS):
        room = most - len(taken.found)
        free = None if limits.running is None else free_slots(limits.running, shelf.slots())
        room = room if free is None else min(room, len(free))
        if room <= 0:
            # When it is the queue's slots that are taken, the caller will be told of one that is free again.
            taken.more = len(taken.found) >= most
            return
        far = MOST_A_CLAIM if limits.by_key else room  # behind what a key's limit holds up there may be others
        head = shelf.head(far)
        if not head:
            return
        look = _Look(shelf, ask, limits)
        chosen, put_off = look.choose(head, room, free)
        if put_off:
            shelf.put_off(put_off)
        mine = shelf.take(chosen) if chosen else set()
        taken.found += [found for found, _ in chosen if found["_id"] in mine]
        look.give_back([found for found, _ in chosen if found["_id"] not in mine])
        if look.again_s is not None:
            taken.again_s = look.again_s
            return
        if len(head) < far and len(mine) + len(put_off) == len(head):
            return  # that was all there is
    taken.more = True


class _Look:
    """One look at the head: chooses, and remembers which tokens it took."""

    def __init__(self, shelf: Shelf, ask: Ask, limits: Limits) -> None:
        self.again_s: float | None = None
        self._shelf = shelf
        self._queue = ask.queue
        self._limits = limits

    def choose(
        self, head: Sequence[Found], room: int, free: list[int] | None
    ) -> tuple[list[tuple[Found, Place]], list[PutOff]]:
        """Say which of `head` to claim (at most `room`), with which slots, and which to put off."""
        put_off: list[PutOff] = []
        placed = self._with_key_slots(head, put_off)
        placed = self._with_key_tokens(placed, room, put_off)
        placed = self._with_queue_tokens(placed)
        if free is not None:
            slots = iter(free)
            placed = [(found, Place(next(slots), place.key_slot)) for found, place in placed]
        return placed, put_off

    def _with_key_slots(self, head: Sequence[Found], put_off: list[PutOff]) -> list[tuple[Found, Place]]:
        limit = self._limits.key_running
        if limit is None:
            return [(found, Place()) for found in head]
        free = {key: free_slots(limit, slots) for key, slots in self._shelf.key_slots().items()}
        placed = []
        for found in head:
            key = key_of(found)
            if key is None:
                placed.append((found, Place()))
            elif slots := free.setdefault(key, free_slots(limit, ())):
                placed.append((found, Place(key_slot=key_slot(key, slots.pop(0)))))
            else:
                put_off.append(PutOff(found, BACKSTOP_S, key))
        return placed

    def _with_key_tokens(
        self, placed: list[tuple[Found, Place]], room: int, put_off: list[PutOff]
    ) -> list[tuple[Found, Place]]:
        """Take tokens key by key, as far as there is room; tasks behind that stay as they are."""
        rate = self._limits.key_rate
        if rate is None:
            return placed[:room]
        waiting = Counter(key_of(found) for found, _ in placed)
        tokens: dict[str, Tokens] = {}
        used: Counter[str] = Counter()
        late: dict[str, list[Found]] = defaultdict(list)
        chosen: list[tuple[Found, Place]] = []
        for one in placed:
            if len(chosen) == room:
                break
            key = key_of(one[0])
            if key is not None and key not in tokens:
                wanted = min(waiting[key], room - len(chosen))
                tokens[key] = self._shelf.tokens(key_bucket(self._queue, key), rate, wanted)
            if key is None or used[key] < tokens[key].granted:
                chosen.append(one)
                used[key or ""] += 1
            else:
                late[key].append(one[0])
        for key, got in tokens.items():
            if got.granted > used[key]:
                self._shelf.give_back(key_bucket(self._queue, key), rate, got.granted - used[key])
            waits = waits_s(rate, got.left, len(late[key]))
            put_off += [PutOff(found, delay_s) for found, delay_s in zip(late[key], waits, strict=True)]
        return chosen

    def _with_queue_tokens(self, placed: list[tuple[Found, Place]]) -> list[tuple[Found, Place]]:
        rate = self._limits.rate
        if rate is None or not placed:
            return placed
        tokens = self._shelf.tokens(queue_bucket(self._queue), rate, len(placed))
        if tokens.granted < len(placed):
            self.again_s = waits_s(rate, tokens.left, 1)[0]
            self._give_back_keys([found for found, _ in placed[tokens.granted :]])
        return placed[: tokens.granted]

    def give_back(self, lost: Sequence[Found]) -> None:
        """Give back the tokens of tasks that others were quicker to claim."""
        if lost and self._limits.rate is not None:
            self._shelf.give_back(queue_bucket(self._queue), self._limits.rate, len(lost))
        self._give_back_keys(lost)

    def _give_back_keys(self, unused: Sequence[Found]) -> None:
        if self._limits.key_rate is None:
            return
        for key, count in Counter(key_of(found) for found in unused).items():
            if key is not None:
                self._shelf.give_back(key_bucket(self._queue, key), self._limits.key_rate, count)


def key_of(found: Found) -> str | None:
    """Read whose limits a task counts for; what is no string is no key."""
    key = found.get("rate_key")
    return key if type(key) is str else None
