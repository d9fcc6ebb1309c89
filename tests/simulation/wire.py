"""The wire between one process and the server: where calls are lost, half done or late, and what is written down of
those that are answered.

`Wire` stands in the place of the process's store. It raises what the real store does then (`store/faults.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from random import Random
from typing import Any, Final

import msgspec
from bson import ObjectId

from streamq.core.claim import Ask
from streamq.core.moves import claim as claim_move
from streamq.core.moves.put import whole_ms
from streamq.core.settlement import Settlement
from streamq.core.wakes import Interest
from streamq.errors import ClaimUnknown, OutcomeUnknown, PutUnknown, StoreError, StoreUnavailable
from streamq.store.memory_feed import MemoryFeed
from tests.chaos import event
from tests.chaos.event import AnyEvent
from tests.simulation.plan import Call, Lost
from tests.simulation.server import Server

TIMEOUT_S: Final = 2.0
"""What a call may take, in vain; a write that is late takes effect within it."""

PUTS: Final = frozenset({"put"})
CLAIMS: Final = frozenset({"claim", "claim_due"})
WRITES: Final = frozenset({"settle", "cancel", "abandon", "wait_for", "fire", "declare", "switch"})
"""Methods whose outcome, when it is not known, is told as such; of all others the store says that it is away."""

MANY: Final = frozenset({"put", "settle", "extend", "report", "release_due"})
"""Those that can be half done."""

Note = Callable[[float], None]


class Fate(msgspec.Struct, frozen=True):
    """What happens to one call."""

    how: Lost
    hold_s: float
    late_s: float


class Slow(Exception):
    """The call that was made is not at the server yet. Only where `Wire.may_wait`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Wire:
    """One process's. `sent_at` is when the call that is being made was sent."""

    has_tail = False

    def __init__(self, server: Server, calls: Sequence[Call], dice: Random, skew_s: float) -> None:
        self._server = server
        self._calls = {(one.method, one.nth): one for one in calls}
        self._dice = dice
        self._made: Counter[str] = Counter()
        self._skew = timedelta(seconds=skew_s)
        self.feed_of: Callable[[Interest], MemoryFeed]
        self.struck: Callable[[str, float], None] = lambda method, hold_s: None
        self.cut_at = math.inf  # the process is dead: what it says from then on is not heard
        self.away = False  # nothing is answered
        self.trips = 0
        self.trips_before = 0  # those of the trip that is on
        self.may_wait = False
        self._first_sent: dict[tuple[ObjectId, bytes], float] = {}
        self.sent_at = 0.0
        self.hold_s = 0.0  # how long the answers of the call that was made last are held back
        self.notes: list[Note] = []  # what is to be written down when its answer is heard

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("__"):
            raise AttributeError(method)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._make(method, args, kwargs)

        setattr(self, method, call)
        return call

    def prepare(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to give back."""

    def _make(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.trips += 1
        if method == "settle":
            for one in args[0]:
                self._first_sent.setdefault(_key(one), self.sent_at)
        fate = self._fate(method)
        if fate is None:
            return self._answer(method, args, kwargs)
        if fate.how == "slow":
            return self._wait(fate.late_s, method, args, kwargs)
        self.hold_s += fate.hold_s
        self.struck(method, fate.hold_s)
        error = self._suffer(fate, method, args, kwargs)
        if error is None:
            return self._answer(method, args, kwargs)
        raise error

    def _wait(self, seconds: float, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call be on its way for longer, if it is the first of its trip."""
        if not self.may_wait or self.trips != self.trips_before + 1:
            return self._answer(method, args, kwargs)
        self.struck(method, seconds)
        raise Slow(seconds)

    def _fate(self, method: str) -> Fate | None:
        if self.sent_at >= self.cut_at:
            return Fate("before", 0.0, 0.0)
        self._made[method] += 1
        planned = self._calls.get((method, self._made[method]))
        if planned is not None:
            late_s = planned.late_s if planned.how == "slow" else min(planned.late_s, TIMEOUT_S / 2)
            return Fate(planned.how, planned.hold_s, late_s)
        if self.away:
            how: Lost = self._dice.choice(("before", "before", "before", "after", "late"))
            return Fate(how, self._dice.random() * TIMEOUT_S / 2, self._dice.random() * TIMEOUT_S / 2)
        return None

    def _suffer(self, fate: Fate, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StoreError | None:
        """Let it go wrong; None: it does not, since what is lost would have been nothing."""
        how = fate.how
        if how == "before":
            return StoreUnavailable("lost before it was sent")
        if method in CLAIMS:
            return self._lose_claim(fate, method, args)
        if method == "feed":
            return StoreUnavailable("lost")
        if how == "half" and (method not in MANY or len(args[0]) < 2):
            how = "after"
        if how == "half":
            self._call(method, (args[0][: len(args[0]) // 2], *args[1:]), kwargs)
        elif how == "after":
            self._call(method, args, kwargs)
        else:
            self._server.later(fate.late_s, self._as_read(method, args, kwargs))
        if method in PUTS:
            return PutUnknown([one.id for one in args[0]], "lost")
        return OutcomeUnknown("lost") if method in WRITES else StoreUnavailable("lost")

    def _as_read(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], object]:
        """Return what makes the call. One that writes only upon what it has read does nothing when that has changed."""
        if method != "pause":
            return lambda: self._call(method, args, kwargs)
        said, queue = self._server.said, args[0]
        read = said[queue]
        return lambda: self._call(method, args, kwargs) if said[queue] == read else None

    def _lose_claim(self, fate: Fate, method: str, args: tuple[Any, ...]) -> StoreError | None:
        ask: Ask = args[0]
        if method == "claim_due":
            ids = tuple(one["_id"] for one in args[1])
        else:
            now = whole_ms(self._server.now())
            found = [one for one in self._server.documents.values() if claim_move.is_ready(one, ask, now)]
            found.sort(key=lambda one: (-one["priority"], one["seq"]))
            ids = tuple(one["_id"] for one in found[: ask.limit])
        if not ids:
            return None
        if fate.how == "late":
            late = args if method == "claim_due" else (msgspec.structs.replace(ask, ids=ids, spare=0),)
            self._server.later(fate.late_s, lambda: self._call(method, late, {}))
        else:
            made = self._call(method, args, {})
            ids = tuple(dict.fromkeys([*ids, *(claim.id for claim in made.claims)]))
        return ClaimUnknown(ask.queue, ask.claim_id, ids, TIMEOUT_S, "lost")

    def _call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._server.client_now = self._server.now() + self._skew
        return getattr(self._server, method)(*args, **kwargs)

    def _answer(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if method == "feed":
            return self.feed_of(args[0])
        answer = self._call(method, args, kwargs)
        make = NOTED.get(method)
        if make is not None:
            # What is sent again may have been written the first time.
            sent_at = (
                min((self._first_sent.pop(_key(one)) for one in args[0]), default=0.0)
                if method == "settle"
                else self.sent_at
            )
            self.notes.append(make(self._server.log, sent_at, args, answer))
        return answer


def _key(settlement: Settlement) -> tuple[ObjectId, bytes]:
    return settlement.id, settlement.claim_id


def _claimed(log: list[AnyEvent], sent_at: float, args: tuple[Any, ...], answer: Any) -> Note:
    ids, claim = [str(one.id) for one in answer.claims], args[0].claim_id.hex()

    def note(at: float) -> None:
        if ids:
            log.append(event.Claimed(at=at, sent_at=sent_at, claim=claim, ids=ids))

    return note


def _settled(log: list[AnyEvent], sent_at: float, args: tuple[Any, ...], answer: Any) -> Note:
    said = [(str(one.id), one.claim_id.hex(), one.move, verdict) for one, verdict in zip(args[0], answer, strict=True)]

    def note(at: float) -> None:
        for id, claim, move, verdict in said:
            log.append(event.Settled(at=at, sent_at=sent_at, id=id, claim=claim, move=move, verdict=verdict))

    return note


def _extended(log: list[AnyEvent], sent_at: float, args: tuple[Any, ...], answer: Any) -> Note:
    held = [(str(one.id), one.claim_id.hex()) for one in args[0] if one.id not in answer]

    def note(at: float) -> None:
        if held:
            log.append(event.Kept(at=at, sent_at=sent_at, by="extend", held=held))

    return note


def _reported(log: list[AnyEvent], sent_at: float, args: tuple[Any, ...], answer: Any) -> Note:
    held = [(str(one.claim.id), one.claim.claim_id.hex()) for one in args[0] if one.claim.id not in answer]

    def note(at: float) -> None:
        if held:
            log.append(event.Kept(at=at, sent_at=sent_at, by="progress", held=held))

    return note


NOTED: Final[dict[str, Callable[[list[AnyEvent], float, tuple[Any, ...], Any], Note]]] = {
    "claim": _claimed,
    "claim_due": _claimed,
    "settle": _settled,
    "extend": _extended,
    "report": _reported,
}
