"""The checker: from the histories and the database's content to what is wrong. Pure.

After Jepsen's checker of a total queue (jepsen/src/jepsen/checker.clj): lost, unexpected (here: phantom), duplicated,
recovered. Two things are stricter here. What was acknowledged must have ended in the database, not just have been
delivered. And every write of a holder is held against the claims that were given, as the auditor saw them committed:

    X claimed ──── Y claimed ─┬────────────▶ the order of the server (auditor)
                              │
    X's write sent after Y heard of its claim, and took effect: stale
    X told "settled", and the server has no settlement by X: it was written over another's claim, stale

Both need no agreement of clocks between machines: all processes of a run share one monotonic clock, and the second
rule none at all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

from streamq.core.settlement import SettleMove
from tests.chaos.event import (
    Acked,
    AnyEvent,
    Began,
    Claimed,
    ClaimId,
    Closed,
    Died,
    Gap,
    Given,
    Kept,
    Lapsed,
    Refused,
    Settled,
    TaskId,
    Tried,
    Unknown,
)
from tests.chaos.excuses import Excuses
from tests.chaos.findings import Findings, Kind, Violation
from tests.chaos.stored import Stored

Hold = tuple[TaskId, ClaimId]

TERMINAL_MOVES: tuple[SettleMove, ...] = ("succeed", "fail", "cancel")

UNHEARD_S: Final = 60.0
"""How long before the end of its lease a claim may have been asked for of which nobody heard: longer than a call and a
lease last."""


def check(history: Iterable[AnyEvent], stored: Mapping[TaskId, Stored]) -> Findings:
    """Judge one run by all that was written down and by what is stored after the drain."""
    return Checker(list(history), stored).findings()


class Checker:
    """One check: the history sorted by kinds, then one question after the other."""

    def __init__(self, history: list[AnyEvent], stored: Mapping[TaskId, Stored]) -> None:
        self._stored = stored
        self._history = history
        self._tried: Counter[TaskId] = Counter()
        self._acked: set[TaskId] = set()
        self._refused: Counter[TaskId] = Counter()
        self._unknown: set[TaskId] = set()
        self._began: dict[TaskId, list[Began]] = defaultdict(list)
        self._settled: dict[TaskId, list[Settled]] = defaultdict(list)
        self._asked: dict[Hold, float] = {}
        self._heard: dict[Hold, float] = {}
        self._given: dict[TaskId, list[ClaimId]] = defaultdict(list)
        self._closed: dict[TaskId, list[Closed]] = defaultdict(list)
        self._lapsed: dict[TaskId, Lapsed] = {}
        self._kept: list[tuple[Hold, float, str]] = []
        self._died: list[Died] = []
        self._audited = True
        for event in history:
            self._note(event)
        self._found: list[Violation] = []

    def _note(self, event: AnyEvent) -> None:
        match event:
            case Tried(ids=ids):
                self._tried.update(ids)
            case Acked(ids=ids):
                self._acked.update(ids)
            case Refused(ids=ids):
                self._refused.update(ids)
            case Unknown(ids=ids):
                self._unknown.update(ids)
            case Claimed(ids=ids, claim=claim, at=at, sent_at=sent_at):
                self._heard.update({(id, claim): at for id in ids})
                self._asked.update({(id, claim): sent_at for id in ids})
            case Began():
                self._began[event.id].append(event)
            case Settled():
                self._settled[event.id].append(event)
            case Given():
                self._given[event.id].append(event.claim)
            case Closed():
                self._closed[event.id].append(event)
            case Lapsed():
                self._lapsed[event.id] = event
            case Kept(held=held, sent_at=sent_at, by=by):
                self._kept += [((id, claim), sent_at, by) for id, claim in held]
            case Died():
                self._died.append(event)
            case Gap():
                self._audited = False
            case _:
                pass

    def findings(self) -> Findings:
        """Ask everything."""
        self._ask_lost()
        self._ask_phantom()
        self._ask_torn()
        self._ask_unrun()
        self._ask_once()
        self._ask_ends()
        self._ask_settlements()
        self._ask_late()
        for one in self._died:
            self._say("died", one.actor, one.said)
        duplicated, unexcused = self._duplicates()
        ended = [id for id, one in self._stored.items() if one.is_terminal]
        return Findings(
            tried=len(self._tried),
            acked=len(self._acked),
            refused=len(self._refused.keys() - self._acked),
            unknown=len(self._unknown - self._acked),
            ended=len(ended),
            failed=sum(self._is_unasked(id, one) for id, one in self._stored.items()),
            given_up=len(self._given_up()),
            violations=tuple(self._found),
            duplicated=duplicated,
            unexcused=unexcused,
            recovered=tuple(id for id in ended if id in self._tried and id not in self._acked),
            audited=self._audited,
        )

    def _say(self, kind: Kind, id: str, why: str) -> None:
        self._found.append(Violation(kind, id, why))

    # --- what was put --------------------------------------------------------------------------------------------

    def _ask_lost(self) -> None:
        for id in sorted(self._acked - self._stored.keys()):
            self._say("lost", id, "its put was acknowledged and it is not stored")
        for id, one in self._stored.items():
            if not one.is_terminal:
                how = "acknowledged" if id in self._acked else "not acknowledged"
                self._say("lost", id, f"it is still {one.status} after the drain ({how})")

    def _ask_phantom(self) -> None:
        for id in sorted(self._began.keys() | self._stored.keys()):
            seen = "stored" if id in self._stored else "run"
            if id not in self._tried:
                self._say("phantom", id, f"it is {seen} and was never put")
            elif self._refused[id] == self._tried[id]:
                self._say("phantom", id, f"it is {seen} though each put of it said that nothing was stored")

    def _ask_torn(self) -> None:
        for id, one in self._stored.items():
            if one.missing:
                self._say("torn", id, f"it lacks {', '.join(one.missing)}")
            elif one.mark != id:
                self._say("torn", id, f"its payload is that of {one.mark}")

    # --- who ran and settled it ----------------------------------------------------------------------------------

    def _ask_unrun(self) -> None:
        for id, one in self._stored.items():
            if one.status == "succeeded" and all(began.claim != one.settled_by for began in self._began[id]):
                self._say("unrun", id, f"it succeeded by claim {one.settled_by}, under which nobody began it")

    def _ask_once(self) -> None:
        """What has one attempt begins once, whatever happens."""
        for id, runs in self._began.items():
            if len(runs) > 1 and (any(one.once for one in runs) or (id in self._stored and self._stored[id].once)):
                self._say("twice", id, f"it has one attempt and was begun by {[one.claim for one in runs]}")

    def _given_up(self) -> list[TaskId]:
        return [id for id, one in self._stored.items() if one.once and one.status == "failed" and id in self._lapsed]

    def _is_unasked(self, id: TaskId, one: Stored) -> bool:
        """Say whether it failed though its payload does not ask for that, and no lease ended with its only attempt."""
        return one.status == "failed" and not (one.once and (one.fails or id in self._lapsed))

    def _ask_ends(self) -> None:
        """A task ends once: by the answers of the store, and by what the server has committed."""
        if self._audited:
            for id, one in self._stored.items():
                if one.is_terminal and id not in self._lapsed and not any(map(_is_end, self._closed[id])):
                    self._say("stale", id, f"it is {one.status}, and by the server's account nothing made it so")
        for id, answers in self._settled.items():
            ends = {one.claim for one in answers if one.move in TERMINAL_MOVES and one.verdict == "settled"}
            if len(ends) > 1:
                self._say("stale", id, f"{len(ends)} claims were told that they have ended it: {sorted(ends)}")
        for id, written in self._closed.items():
            ends = {one.by for one in written if _is_end(one)}
            if len(ends) > 1:
                self._say("stale", id, f"it has ended under {len(ends)} claims: {sorted(ends)}")
            if ends and id in self._lapsed:
                self._say("stale", id, f"it has ended under {sorted(ends)}, and without a settlement besides")

    def _ask_settlements(self) -> None:
        """Who was told "settled" has settled: under its own claim, by the server's account."""
        for answer in self._told_settled():
            id, claim = answer.id, answer.claim
            if self._audited:
                if all(one.by != claim for one in self._closed[id]):
                    said = f"claim {claim} was told that its {answer.move} is written, and the server has none of it"
                    self._say("stale", id, said)
            elif answer.move in TERMINAL_MOVES and id in self._stored and self._stored[id].settled_by != claim:
                said = f"claim {claim} was told that it has ended it, and {self._stored[id].settled_by} has"
                self._say("stale", id, said)

    def _told_settled(self) -> Iterator[Settled]:
        for answers in self._settled.values():
            yield from (one for one in answers if one.verdict == "settled")

    def _ask_late(self) -> None:
        """Nothing takes effect under a claim after the holder of a later one has heard of it."""
        writes = [((one.id, one.claim), one.sent_at, one.move) for one in self._told_settled()]
        for (id, claim), sent_at, how in [*writes, *self._kept]:
            later = self._claims_after(id, claim)
            heard = [one for one in later if self._heard.get((id, one), float("inf")) < sent_at]
            if heard:
                late_s = sent_at - self._heard[id, heard[0]]
                said = f"{how} by claim {claim} took effect, sent {late_s:.3f} s after claim {heard[0]} was given"
                self._say("stale", id, said)

    def _claims_after(self, id: TaskId, claim: ClaimId) -> list[ClaimId]:
        """Those the server has committed: a claim that a failover took back was never given."""
        given = self._given.get(id, [])
        return given[given.index(claim) + 1 :] if claim in given else []

    # --- how often it ran ----------------------------------------------------------------------------------------

    def _duplicates(self) -> tuple[dict[TaskId, int], dict[TaskId, int]]:
        """Count what was begun though an earlier attempt had not been settled. Allowed after a fault."""
        excuses = Excuses(self._history)
        duplicated: Counter[TaskId] = Counter()
        unexcused: Counter[TaskId] = Counter()
        for id, runs in self._began.items():
            in_order = sorted(runs, key=lambda run: run.at)
            put_back = {
                one.claim for one in self._settled[id] if one.verdict == "settled" and one.move not in TERMINAL_MOVES
            } | {one.by for one in self._closed[id] if not Stored(one.status).is_terminal}
            spent: set[int] = set()
            for number, (first, second) in enumerate(pairwise(in_order)):
                if first.claim in put_back or self._is_undone_with(first, second, in_order[number + 2 :]):
                    continue
                duplicated[id] += 1
                excuse = excuses.find(self._asked.get((id, first.claim), first.at), second.at, spent)
                if excuse is None:
                    unexcused[id] += 1
                else:
                    spent.add(excuse)
        for id in self._given_up():
            claim = self._given[id][-1] if self._given[id] else ""
            at = self._asked.get((id, claim), self._lapsed[id].at - UNHEARD_S)
            if excuses.find(at, self._lapsed[id].at, frozenset()) is None:
                unexcused[id] += 1
        return dict(duplicated), dict(unexcused)

    def _is_undone_with(self, first: Began, second: Began, later: Sequence[Began]) -> bool:
        """Say whether a primary took the settlement of `first`, gave the task to `second` by it, and lost both: a later
        run has the number of `second` again. That later run is the repetition."""
        asked = self._asked.get((second.id, second.claim), second.at)
        sent = any(
            one.claim == first.claim and one.move not in TERMINAL_MOVES and one.sent_at <= asked
            for one in self._settled[first.id]
        )
        return sent and any(run.attempt <= second.attempt for run in later)


def _is_end(one: Closed) -> bool:
    return Stored(one.status).is_terminal
